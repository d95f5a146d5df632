"""Published values and ours beside each other, one row for each, with a verdict.

agrees           the published value, give or take its reading error, meets our 95 % interval
lower, higher    our whole interval is below it, or above it
not comparable   for the reason in the same row; ours may still be given, for orientation
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from run.published import ours as measures
from run.published.numbers import Curve, LayerByLayer, Projected, TaskVectors
from run.published.ours import Ours
from run.published.setting import Results, most_prompts, other_states, our_layer, widths
from run.published.setting import made_with as settings_of

COLUMNS = (
    *("figure", "quantity", "of", "cluster", "statistic", "unit", "layer", "our_layer"),
    *("ours", "low", "high", "count", "ours_debiased", "published", "error", "verdict", "reason"),
)
VERDICTS = ("agrees", "lower", "higher", "not comparable")
ORIENTATION = "for orientation: "
PAIRS = ("base | C", "E | C")
UNITS = {"cka": "CKA", "cka_unseen": "CKA", "dimensions": "directions"}

#: Quartiles over some tasks, by pair of models and statistic.
ByPair = Mapping[str, Mapping[str, Ours]]
#: The same by whether E was trained on the tasks, and their cluster ("" for all).
AllQuartiles = Mapping[tuple[bool, str], ByPair]


def verdict(low: float, high: float, published: float, error: float) -> str:
    """Of an interval of ours and a published value: `agrees`, or whether ours is `lower` or `higher`."""
    slack = 1e-9 * max(1.0, abs(published))  # decimal fractions are not exact
    if high < published - error - slack:
        return "lower"
    return "higher" if low > published + error + slack else "agrees"


# --- curves over layers -----------------------------------------------------------------------------------------------


def curves_table(published: LayerByLayer, results: Results, quartiles: AllQuartiles) -> pd.DataFrame:
    """A row for each value of every published curve, and the columns `COLUMNS`.

    Where numbers of directions cannot be compared, both are given as shares of the hidden size, if ours is known.
    """
    record = results.folder.record["model"]
    other = published.model.differs(record)
    limits = {
        quantity: _limit(quantity, published, results)
        for quantity in dict.fromkeys(c.quantity for c in published.curves)
    }
    rows = []
    for curve in published.curves:
        found = _ours(curve, results, quartiles)
        reason = f"{ORIENTATION}{other}" if other else limits[curve.quantity]
        divisors = widths(published, results) if curve.quantity == "dimensions" and reason else None
        for layer in (int(i) + 1 for i in np.flatnonzero(np.isfinite(curve.values))):
            name = our_layer(layer, len(curve.values), record["layers"])
            cells = _cells(found, name, float(curve.values[layer - 1]), curve.error, reason, divisors)
            unit = "share of the hidden size" if divisors else UNITS.get(curve.quantity, "Pearson's r")
            own = {name: getattr(curve, name) for name in ("figure", "quantity", "of", "cluster", "statistic")}
            rows.append(own | {"unit": unit, "layer": layer, "our_layer": name} | cells)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def all_quartiles(published: LayerByLayer, results: Results) -> AllQuartiles:
    """Quartiles over all tasks that E was trained on, over the others, and over every published cluster."""
    cka = results.cka
    assert cka is not None
    there = set(cka.task.values.astype(str))
    clusters = dict.fromkeys((True, curve.cluster) for curve in published.curves)
    found = {}
    for seen, cluster in (*clusters, (False, "")):
        tasks = [task for task in results.tasks(seen, cluster) if task in there]
        if tasks:
            found[seen, cluster] = {pair: measures.cka_quartiles(cka, tasks, pair) for pair in PAIRS}
    return found


def _ours(curve: Curve, results: Results, quartiles: AllQuartiles) -> Ours | str:
    """Our curve for a published one, or why there is none."""
    if curve.quantity in ("cka", "cka_unseen"):
        seen = curve.quantity == "cka"
        if (own := quartiles.get((seen, curve.cluster))) is not None:
            return own[curve.of][curve.statistic]
        if curve.cluster:
            return f"no task of the cluster {curve.cluster}"
        return "no task that E was trained on" if seen else "no task that E was not trained on (--unseen)"
    if curve.quantity == "dimensions":
        if results.spectrum is None:
            return "not computed yet: python -m run.spectrum"
        if curve.of not in results.spectrum.model.values:
            return f"no spectrum of {curve.of}"
        return measures.dimensions(results.spectrum, results.tasks(True), curve.of)
    if results.readability is None:
        return "not computed yet: python -m run.readability"
    assert results.cka is not None
    return measures.correlations(results.readability, results.cka, results.tasks(True), curve.of, curve.quantity)


def _limit(quantity: str, published: LayerByLayer, results: Results) -> str:
    """Why our values of a quantity, of whatever model, are of something else; empty if they are not."""
    ds = results.spectrum if quantity == "dimensions" else results.cka
    if ds is None:
        return ""
    if reason := other_states(ds):
        return reason
    if quantity == "dimensions":
        for made in settings_of(ds):
            if (share := made.get("share", published.variance)) != published.variance:
                return f"ours hold {share:.0%} of the variance, the published ones {published.variance:.0%}"
        most = most_prompts(results.folder, ds)
        if most < published.most_prompts:
            return (
                f"ours are counted over at most {most:,} prompts, the published ones over up to "
                f"{published.most_prompts:,}: no count can exceed the number of prompts less one"
            )
    return ""


# --- tables of projections --------------------------------------------------------------------------------------------


def projections_table(published: TaskVectors, results: Results) -> pd.DataFrame:
    """A row for each entry of the published tables; `statistic` is the pair of tasks as `SUM → NER`."""
    assert results.adapters is not None
    stand_ins = stand_ins_for(published, results)
    blocked = projection_limit(published, results)
    rows = []
    for entry in published.values:
        others = [model.differs(results.folder.record["model"]) for model in published.models[entry.of]]
        reason = ORIENTATION + others[0] if all(others) else blocked
        if not reason and entry.quantity == "l1":
            reason = "whether the published spectra include alpha / r is not stated, and L1 grows with them"
        found = _projection_of(entry, stand_ins, results)
        rows.append(
            {
                "figure": "entropy" if entry.quantity in ("h_s1", "h_s2") else "L1 and REC",
                "quantity": entry.quantity,
                "of": entry.of,
                "cluster": "",
                "statistic": f"{entry.onto} → {entry.projected}",
                "unit": "singular values" if entry.quantity == "l1" else "share",
                "layer": "",
                "our_layer": "",
            }
            | _cells(found, "all", entry.value, entry.error, reason)
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def stand_ins_for(published: TaskVectors, results: Results) -> dict[str, str]:
    """Our tasks that stand for the published ones, by the published name; those that we have."""
    assert results.adapters is not None
    ours = sorted(str(task) for task in results.adapters.task.values)
    found = {}
    for name, globs in published.tasks.items():
        matching = [task for glob in globs for task in ours if fnmatch.fnmatchcase(task, glob)]
        if matching:
            found[name] = matching[0]
    return found


def projection_limit(published: TaskVectors, results: Results) -> str:
    """Why our projections, of whatever model, are of something else; empty if they are not."""
    adapters = results.adapters
    assert adapters is not None
    form = results.compared_with.get("form", published.form)
    if form != published.form:
        return f"ours have the form {form}; the published entropies fit {published.form} values"
    modules = sorted({str(module).rpartition(".")[2] for module in adapters.module.values})
    if modules != sorted(published.targets):
        return f"ours are means over {', '.join(modules)}, the published ones over {', '.join(published.targets)}"
    rank = int(results.folder.record["config"]["rank"])
    return "" if rank == published.rank else f"ours have rank {rank}, the public code has {published.rank}"


def _projection_of(entry: Projected, stand_ins: dict[str, str], results: Results) -> Ours | str:
    adapters = results.adapters
    assert adapters is not None
    missing = [name for name in (entry.onto, entry.projected) if name not in stand_ins]
    if missing:
        return f"no task stands for {' or '.join(missing)}"
    if measures.PROJECTED[entry.quantity] not in adapters.measure.values:
        return "not computed: python -m run.compare_adapters --measures grassmann distances projection"
    if entry.quantity == "l1" and (p := results.compared_with.get("p", 1)) != 1:
        return f"ours are L{p:g}"
    return measures.projection(adapters, stand_ins[entry.onto], stand_ins[entry.projected], entry.quantity)


# --- both -------------------------------------------------------------------------------------------------------------


def _cells(
    found: Ours | str,
    layer: str,
    published: float,
    error: float,
    reason: str,
    divisors: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Ours, the published value and the verdict; `reason` is why nothing is claimed, of whatever value."""
    of_ours, of_published = divisors or (1, 1)
    published, error = published / of_published, error / of_published
    nothing = dict.fromkeys(("ours", "low", "high", "count", "ours_debiased"), np.nan)
    if isinstance(found, str):
        return nothing | {"published": published, "error": error, "verdict": VERDICTS[-1], "reason": found}
    at = found.at(layer)
    value, low, high, other = (at[name] / of_ours for name in ("value", "low", "high", "debiased"))
    if np.isnan(value):
        reason = f"ours has no value at {layer}"
    elif not reason and np.isnan(low):
        reason = "ours has no interval"
    return {
        **{"ours": value, "low": low, "high": high, "count": at["count"], "ours_debiased": other},
        **{"published": published, "error": error},
        "verdict": VERDICTS[-1] if reason else verdict(low, high, published, error),
        "reason": reason,
    }
