"""The part of a study's report that stands beside published numbers: figures, a table of verdicts, sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from run.findings import count, listed, spans
from run.published import numbers
from run.published.numbers import LayerByLayer, Source, TaskVectors
from run.published.panels import curve_figures, projection_figures
from run.published.setting import Results, other_settings
from run.published.table import PAIRS, VERDICTS, ByPair, all_quartiles, curves_table, projections_table, stand_ins_for
from run.study_folder import StudyFolder

WHAT = {
    "cka": "same-layer CKA",
    "cka_unseen": "same-layer CKA, tasks that E was not trained on",
    "dimensions": "directions for 99 % of the variance",
    "flesch_kincaid": "correlation of CKA with the Flesch-Kincaid grade",
    "coleman_liau": "correlation of CKA with the Coleman-Liau index",
    "data_size": "correlation of CKA with the data size",
    "l1": "L1",
    "rec": "REC",
    "h_s1": "H(S1)",
    "h_s2": "H(S2)",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """What a report shows; `table` is what goes to `results/published.csv`."""

    source: Source
    recipe: str
    figures: dict[str, Figure]
    findings: list[str]
    summary: list[dict[str, str]]
    table: pd.DataFrame
    same_model: bool
    bands: bool  # curves over layers, else tables of projections
    read: str  # how the published values were read

    def csv(self) -> str:
        """The table as text."""
        return self.table.to_csv(index=False, float_format="%.6g")


def beside(folder: StudyFolder, cka: xr.Dataset | None) -> Section | None:
    """The study in `folder` beside the numbers of its recipe; None where there are none, or nothing to compare yet.

    Args:
      cka: the study's results of CKA, of base | C and E | C.

    Raises:
      LorajaxError: a result that is there cannot be read.
    """
    recipe = folder.record["config"].get("recipe", "")
    if recipe not in numbers.RECIPES:
        return None
    results = Results.of(folder, cka)
    if recipe == "layer-by-layer":
        return None if cka is None else _layer_by_layer(numbers.layer_by_layer(), results)
    return None if results.adapters is None else _task_vectors(numbers.task_vectors(), results)


def _layer_by_layer(published: LayerByLayer, results: Results) -> Section:
    quartiles = all_quartiles(published, results)
    table = curves_table(published, results, quartiles)
    seen, unseen = (quartiles.get((which, ""), {}) for which in (True, False))
    other = published.model.differs(results.folder.record["model"])
    whole = not other and table[table.quantity == "dimensions"].unit.eq("directions").all()
    return Section(
        source=published.source,
        recipe="layer-by-layer",
        figures=curve_figures(published, results, seen, unseen, whole=bool(whole)),
        findings=[
            *verdict_findings(table, other),
            *(crossing_findings(published, results, seen) if seen else []),
            *(bias_findings(published, results, seen) if seen else []),
            *_settings(results, "layer-by-layer"),
        ],
        summary=summary(table),
        table=table,
        same_model=not other,
        bands=True,
        read="Published values were digitised, with an error of about 0.005 of CKA and 10 directions; the medians of "
        "clusters (figure 3) more coarsely, with an error taken as 0.02; correlations are printed with two decimals.",
    )


def _task_vectors(published: TaskVectors, results: Results) -> Section:
    table = projections_table(published, results)
    record = results.folder.record["model"]
    same = any(not model.differs(record) for own in published.models.values() for model in own)
    others = listed(dict.fromkeys(model.label for own in published.models.values() for model in own))
    names = ", ".join(f"{name} is {task}" for name, task in stand_ins_for(published, results).items())
    return Section(
        source=published.source,
        recipe="task-vectors",
        figures=projection_figures(table, published.source.label),
        findings=[
            *verdict_findings(table, "" if same else f"another model, one of {others}"),
            *([f"Of this study's tasks, {names}."] if names else []),
            *_settings(results, "task-vectors"),
        ],
        summary=summary(table),
        table=table,
        same_model=same,
        bands=False,
        read="Published values are printed with three decimals. The tables do not say whether they are of Mistral 7B "
        "or of Llama 3 8B: either counts as the same model.",
    )


def _settings(results: Results, recipe: str) -> list[str]:
    told = other_settings(results.folder.record["config"], recipe)
    return [f"This study's settings differ from the recipe's (in brackets): {'; '.join(told)}."] if told else []


def verdict_findings(table: pd.DataFrame, other: str) -> list[str]:
    """How many published values meet our interval; or, under another model, that nothing is claimed."""
    if other:
        return [
            f"The published values are of {other}. They are drawn beside ours for orientation; no agreement is claimed."
        ]
    compared = table[table.verdict != VERDICTS[-1]]
    left = count(len(table) - len(compared), "value")
    if compared.empty:
        return [f"No published value can be compared with ours: {listed(dict.fromkeys(table.reason))}."]
    agree, lower, higher = ((compared.verdict == word).sum() for word in VERDICTS[:3])
    said = (
        f"Of {count(len(compared), 'published value')} that can be compared, {agree} meet our 95 % interval; "
        f"ours is lower at {lower} and higher at {higher}."
    )
    return [said + (f" {left} cannot be compared." if len(table) > len(compared) else "")]


def crossing_findings(published: LayerByLayer, results: Results, seen: ByPair) -> list[str]:
    """From which layer on the median of E | C is above that of base | C, there and here."""
    base, multi = (seen[pair]["median"] for pair in PAIRS)
    layers = [name for name in results.folder.record["model"]["layers"] if name in base.layers and name != "embedding"]
    ours = [np.array([own.at(name)["value"] for name in layers]) for own in (base, multi)]
    if not np.isfinite(ours).all(0).any():
        return []
    there = _above_for_good(*(published.curve("2", pair, "median").values for pair in PAIRS))
    here = _above_for_good(*ours)
    blocks = sum(name.startswith("block ") for name in results.folder.record["model"]["layers"])
    words = [
        "nowhere" if at is None else f"from {name} on"
        for at, name in (
            (there, "" if there is None else f"layer {there + 1} of {published.model.blocks}"),
            (here, "" if here is None else f"{layers[here]} (of {count(blocks, 'block')})"),
        )
    ]
    return [
        f"The median over tasks of biased E | C stays above that of base | C {words[0]} in the published study, and "
        f"{words[1]} here."
    ]


def _above_for_good(base: np.ndarray, multi: np.ndarray) -> int | None:
    """The first layer from which `multi` is above `base` wherever both are known; None if it is not in the last."""
    known = np.flatnonzero(np.isfinite(base) & np.isfinite(multi))
    below = [i for i in known if multi[i] <= base[i]]
    after = [i for i in known if not below or i > below[-1]]
    return int(after[0]) if after else None


def bias_findings(published: LayerByLayer, results: Results, seen: ByPair) -> list[str]:
    """What fewer prompts do to a biased estimate."""
    assert results.cka is not None
    medians = [own["median"] for own in seen.values()]
    gaps = [own.value - own.debiased for own in medians if own.debiased is not None]
    if not np.isfinite(gaps).any() or int(results.cka.n.min()) >= published.most_prompts:
        return []
    return [
        f"The published CKA is the biased estimate, and so is ours here. It rises as prompts get fewer: ours has "
        f"n = {results.prompts} prompts a task, theirs up to {published.most_prompts:,}. Our biased medians are above "
        f"the debiased ones by up to {np.nanmax(gaps):.3f}, so ours can be higher than theirs for that alone."
    ]


# --- the table of the report ------------------------------------------------------------------------------------------


def summary(table: pd.DataFrame) -> list[dict[str, str]]:
    """Rows where, what, of, compared, agree, difference, differ: of each group of published values, what came of it.

    Groups of one figure that cannot be compared for the same reason are one row.
    """
    rows: list[dict[str, str]] = []
    blocked: dict[tuple[str, str, str], list[str]] = {}
    groups: dict[tuple[str, str], int] = {}
    for (figure, quantity, of, cluster, statistic), own in _grouped(table):
        name = ", ".join(part for part in (of, cluster.replace("_", " ")) if part)
        name += f" ({statistic})" if statistic else ""
        groups[figure, quantity] = groups.get((figure, quantity), 0) + 1
        compared = own[own.verdict != VERDICTS[-1]]
        if compared.empty:
            for reason in dict.fromkeys(own.reason):
                blocked.setdefault((figure, quantity, reason), []).append(name)
            continue
        difference = compared.ours - compared.published
        differ = [
            f"{word} at {_places(part)}"
            for word in ("lower", "higher")
            if len(part := compared[compared.verdict == word])
        ]
        rows.append(
            {
                "where": figure,
                "what": WHAT[quantity],
                "of": name,
                "compared": f"{len(compared)} of {len(own)}",
                "agree": f"{(compared.verdict == 'agrees').mean():.0%}",
                "difference": f"{difference.mean():+.3f}" if own.published.max() < 10 else f"{difference.mean():+.0f}",
                "differ": "; ".join(differ) or "nowhere",
            }
        )
    for (figure, quantity, reason), names in blocked.items():
        which = "all" if len(names) == groups[figure, quantity] else listed(names, most=3)
        rows.append(
            {"where": figure, "what": WHAT[quantity], "of": which, "compared": "none"}
            | {"agree": "", "difference": "", "differ": f"not comparable: {reason}"}
        )
    return sorted(rows, key=lambda row: row["where"])


def _grouped(table: pd.DataFrame) -> Iterable[tuple[tuple[str, ...], pd.DataFrame]]:
    """Curves; of projections, all pairs of tasks of one quantity and model."""
    keys = ["figure", "quantity", "of", "cluster", "statistic"]
    curves = table.layer.ne("").all()
    return (table if curves else table.assign(pair=table.statistic, statistic="")).groupby(keys, sort=False)


def _places(rows: pd.DataFrame) -> str:
    if "pair" in rows:
        return listed(rows.pair)
    labels = [str(layer) for layer in range(int(rows.layer.max()) + 1)]
    return f"layer{'' if len(rows) == 1 else 's'} {spans((int(layer) for layer in rows.layer), labels)}"
