"""Training of fleets: N adapters over one frozen model in one compiled step, each on its own data.

`Fleet` is what is trained, `TrainConfig` how, and `train` does it, into a folder from which it goes on after a crash.
Public names, by module:

    config          TrainConfig
    fleet           Fleet
    loop            train, Trained, Progress
    stopping        Stopped
    evaluate        Evaluator, Measured
    ablation        MaskedLosses
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorajax import _reads_when_asked

if TYPE_CHECKING:
    from lorajax.training.ablation import MaskedLosses
    from lorajax.training.config import TrainConfig
    from lorajax.training.evaluate import Evaluator, Measured
    from lorajax.training.fleet import Fleet
    from lorajax.training.loop import Progress, Trained, train
    from lorajax.training.stopping import Stopped

__all__ = [
    "Evaluator", "Fleet", "MaskedLosses", "Measured", "Progress", "Stopped", "TrainConfig", "Trained", "train",
]  # fmt: skip

if not TYPE_CHECKING:  # type checkers see the imports above, and that there are no other names
    __getattr__ = _reads_when_asked(
        __name__,
        {
            "ablation": "MaskedLosses",
            "config": "TrainConfig",
            "evaluate": "Evaluator Measured",
            "fleet": "Fleet",
            "loop": "train Trained Progress",
            "stopping": "Stopped",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
