"""The notebook: its cells run in order, find what was planted, and are kept without outputs."""

import ast
import json

import matplotlib
import numpy as np

from tests.docs.pages import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "analysis_alone.ipynb"
CELLS = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_cells_run(monkeypatch):
    import matplotlib.pyplot as plt

    backend = matplotlib.get_backend()
    plt.switch_backend("Agg")
    names: dict = {"__name__": "notebook"}
    try:
        for i, text in enumerate(CODE):
            exec(compile(text, f"cell {i}", "exec"), names)
        assert len(plt.get_fignums()) == 2
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
    finally:
        plt.close("all")
        plt.switch_backend(backend)
    interval, truth = names["interval"], names["truth"]
    # Of six 95 % intervals one may miss its truth; the biased value is far off where nothing is shared.
    assert np.sum((truth < interval.low - 1e-6) | (truth > interval.high + 1e-6)) <= 1
    assert names["biased"][0] > 0.3
    near = names["mean"].overall
    family = np.array([name.startswith("red") for name in names["names"]])
    own = (family[:, None] == family) & ~np.eye(6, dtype=bool)
    assert near[own].max() < 0.75 < 0.9 < near[family[:, None] != family].min()


def test_analysis_alone():
    imported = set()
    for node in ast.walk(ast.parse("\n".join(CODE))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            imported.add(str(named).partition(".")[0])
    assert "analysis" in imported
    assert not imported & {"lorajax", "run"}


def test_no_outputs_are_kept():
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
