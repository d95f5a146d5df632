"""Published numbers, and how a study of the same recipe compares with them.

The numbers are JSON files beside this module, with their source, how they were read, and how exactly. `numbers` reads
them, `setting` says whether a study can be compared with them, `ours` takes the same quantities from a study's results,
`table` puts both beside each other with a verdict, `section` makes the report's part of it.
"""

from run.published.numbers import Curve, LayerByLayer, TaskVectors, layer_by_layer, task_vectors
from run.published.section import Section, beside
from run.published.table import COLUMNS

__all__ = [
    "COLUMNS",
    "Curve",
    "LayerByLayer",
    "Section",
    "TaskVectors",
    "beside",
    "layer_by_layer",
    "task_vectors",
]
