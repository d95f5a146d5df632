"""The whole study in one folder: adapters are trained, compared across all layers, and shown in one report.

    python -m run.study STUDY --tasks capital_city film_reviews --steps 200

It is `run.finetune`, then `run.cka_all_layers`, then `run.report`. What is done is not done again, so the same command
goes on after a crash, and after more is asked for.
"""

from __future__ import annotations

import tyro

from lorajax.errors import LorajaxError
from run import report
from run.cka_all_layers import CkaAllLayers, cka_all_layers
from run.finetune import Finetune, complain, finetune
from run.lock import study_lock
from run.terminal import command, say
from run.workbench import Workbench


def study(options: Finetune) -> None:
    """Runs the three commands over one loaded model.

    Raises:
      LorajaxError: it was asked for on several processes, which only the training can use.
    """
    if options.processes.coordinator or options.processes.distributed == "on":
        raise LorajaxError("run.study works in one process; use run.finetune on several, then run.study in one")
    with study_lock(options.out):
        bench = Workbench.prepare(options.config)
        folder = finetune(options, bench)
        cka_all_layers(CkaAllLayers(folder.path), bench)
        say(f"report: {report.build(folder.path).absolute()}")
    complain(folder)


def main() -> None:
    """Entry point of `python -m run.study`."""
    study(tyro.cli(Finetune, description=__doc__, prog="python -m run.study"))


if __name__ == "__main__":
    command(main)
