"""How much of each task the multi-task model sees: quotas, the examples of each task in one of its epochs.

Examples-proportional mixing (Raffel et al. 2020, T5, arXiv 1910.10683, section 3.5.2) takes each task in proportion to
the number of its examples, up to a cap, so that the large tasks do not drown the small ones. FLAN (Wei et al. 2022,
arXiv 2109.01652) caps at 3,000. Zhao et al. (2024, arXiv 2410.20008) take up to 50,000 examples from each cluster. Here
the quota of a task is `min(count, rate cap) x weight`; the quotas of a cluster above its cap are then scaled down.
`lorajax.data.batching.Stream` draws epochs of these sizes.

All is computed in exact fractions: the same settings give the same quotas everywhere.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from lorajax.data.task import matches
from lorajax.errors import LorajaxError

LARGEST_WEIGHT = 1000


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
    """How much of each task is in an epoch of the multi-task model; by default, every example once."""

    mix_rate_cap: int = 0
    """Examples an epoch takes from one task at most, before weights; 0 for no cap. FLAN: 3000."""
    mix_cluster_cap: int = 0
    """Examples an epoch takes from one cluster at most; 0 for no cap. Zhao et al. (2024): 50000."""
    mix_weights: tuple[str, ...] = ()
    """Entries `NAME=2.0` for a task, a cluster or a glob such as `wmt*`; where several match, they are multiplied."""

    def __post_init__(self):
        for flag, cap in (("--mix-rate-cap", self.mix_rate_cap), ("--mix-cluster-cap", self.mix_cluster_cap)):
            if cap < 0:
                raise LorajaxError(f"{flag} must be 0 or more, found {cap}")
        for entry in self.mix_weights:
            _weight(entry)


def quotas(counts: Mapping[str, int], clusters: Mapping[str, str], config: MixtureConfig) -> dict[str, int]:
    """Examples of each task in one epoch, at least 1 each, in the order of `counts`.

    `counts` are the tasks' training examples and `clusters` the cluster of each task. Within a cluster, fractions are
    rounded by largest remainder, so the sum of a cluster above its cap is the cap exactly. A quota may be larger than
    the task's count: then an epoch holds examples more than once.

    Raises:
      LorajaxError: a weight that matches no task and no cluster, or a cap below the number of a cluster's tasks.
    """
    cap = config.mix_rate_cap
    rates = {task: Fraction(min(count, cap) if cap else count) for task, count in counts.items()}
    for entry in config.mix_weights:
        pattern, weight = _weight(entry)
        matched = [task for task in counts if matches(task, pattern) or matches(clusters[task], pattern)]
        if not matched:
            raise LorajaxError(
                f"--mix-weights {entry}: {pattern!r} is none of the tasks {', '.join(sorted(counts))} "
                f"nor of the clusters {', '.join(sorted({clusters[task] for task in counts}))}"
            )
        for task in matched:
            rates[task] *= weight
    rates = {task: max(Fraction(1), rate) for task, rate in rates.items()}
    shares: dict[str, int] = {}
    for cluster in dict.fromkeys(clusters[task] for task in counts):
        tasks = [task for task in counts if clusters[task] == cluster]
        total = round(sum(rates[task] for task in tasks))
        if config.mix_cluster_cap:
            if config.mix_cluster_cap < len(tasks):
                raise LorajaxError(
                    f"--mix-cluster-cap {config.mix_cluster_cap}: cluster {cluster!r} has {len(tasks)} tasks; "
                    "expected at least one example for each"
                )
            total = min(total, config.mix_cluster_cap)
        shares.update(zip(tasks, apportion([rates[task] for task in tasks], total), strict=True))
    return {task: shares[task] for task in counts}


def apportion(rates: Sequence[Fraction], total: int) -> list[int]:
    """`total` split in proportion to positive `rates`: at least 1 each, the sum exact, by largest remainder.

    Of equal remainders the first gets more. `total` must not be below the number of rates.
    """
    # A share below 1 becomes 1, at the cost of the others, of which more may fall below 1.
    small: set[int] = set()
    while True:
        rest = Fraction(total - len(small)) / sum((r for i, r in enumerate(rates) if i not in small), Fraction(0))
        exact = [Fraction(1) if i in small else rate * rest for i, rate in enumerate(rates)]
        below = {i for i, share in enumerate(exact) if share < 1}
        if not below:
            break
        small |= below
    shares = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(rates)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def _weight(entry: str) -> tuple[str, Fraction]:
    """Name and weight of an entry `NAME=2.0`. A name may have `=` in it."""
    name, _, text = entry.rpartition("=")
    try:
        usable = bool(name) and 0 < float(text) <= LARGEST_WEIGHT
    except ValueError:
        usable = False
    if not usable:
        raise LorajaxError(
            f"--mix-weights {entry!r}: expected NAME=WEIGHT, with a weight above 0 and up to {LARGEST_WEIGHT}"
        )
    return name, Fraction(text)
