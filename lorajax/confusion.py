"""How good a classification is, from its confusion matrix `[..., C, C]`: numbers of class (rows) and answer (columns).

Classes that no example has and no answer gives count for nothing. What is 0/0 is NaN.
"""

from __future__ import annotations

import numpy as np


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of right answers, `[...]`."""
    return _ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum(axis=(-2, -1)))


def majority(confusion: np.ndarray) -> np.ndarray:
    """Share of the commonest class, `[...]`: the accuracy of always giving that answer."""
    return _ratio(confusion.sum(axis=-1).max(axis=-1), confusion.sum(axis=(-2, -1)))


def matthews(confusion: np.ndarray) -> np.ndarray:
    """Matthews correlation of classes and answers, `[...]` from -1 to 1, 0 by chance (Gorodkin, 2004: for any C).

    NaN where all examples are of one class, or all answers are.
    """
    confusion = np.asarray(confusion, np.float64)
    total, right = confusion.sum(axis=(-2, -1)), np.trace(confusion, axis1=-2, axis2=-1)
    classes, answers = confusion.sum(axis=-1), confusion.sum(axis=-2)
    spread = (total**2 - (classes**2).sum(-1)) * (total**2 - (answers**2).sum(-1))
    return _ratio(right * total - (classes * answers).sum(-1), np.sqrt(spread))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.true_divide(part, whole)
