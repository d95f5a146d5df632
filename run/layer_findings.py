"""What bands, ablations, clusters and correlations say, in sentences computed from their numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from analysis.inference import bootstrap_mean
from run.figures import mean_present, same_layer
from run.findings import count, number

TOGETHER = "base | C and E | C"
SURE = 0.05  # a p-value above it shows nothing
SCORES = {"silhouette": "the silhouette", "knn_purity_across": "the purity of neighbours from other tasks"}


def band_findings(bands: pd.DataFrame) -> list[str]:
    """Where the layers are cut, how sure that is, and whether gradual curves do as well."""
    own = bands[bands.curves == TOGETHER]
    if len(own) < 2:
        return []
    spans = [f"{row.first} to {row.last}".replace(" to block", " to") for row in own.itertuples()]
    said = f"By the curves of base | C and E | C together, the layers fall into {len(own)} bands: {_listed(spans)}."
    cuts = [
        f"between {row.begins_low} and {row.begins_high}"
        if row.begins_low != row.begins_high
        else f"at {row.begins_low}"
        for row in own.itertuples()
        if row.begins_low
    ]
    if cuts:
        tasks = count(int(own.tasks.iloc[0]), "task")
        begin = "The later bands begin" if len(cuts) > 1 else "The second begins"
        said += f" {begin}, at 95 % over {tasks}, {_listed(cuts)}."
    p = float(own.p_value.iloc[0])
    if not np.isnan(p):
        share = f"They explain {float(own.explained.iloc[0]):.0%} of the curves' variance"
        if p <= SURE:
            said += f" {share}, more than gradual curves as smooth as these (p = {p:.3f})."
        else:
            said += (
                f" {share}, but gradual curves as smooth as these do as well (p = {p:.3f}): the cuts are where bands "
                "would be, and no evidence of any."
            )
    return [said]


def ablation_findings(ds: xr.Dataset, bands: pd.DataFrame | None, cka: xr.Dataset | None) -> list[str]:
    """What is kept of the gain with the adapter in one band only, and whether CKA points to the same band."""
    if bands is None or "C" not in ds.model.values:
        return []
    own = bands[bands.curves == TOGETHER]
    spans = [(str(row.first).removeprefix("block "), str(row.last).removeprefix("block ")) for row in own.itertuples()]
    masks = [f"band {a}-{b}" for a, b in spans]
    if len(masks) < 2 or not set(masks) <= set(ds["mask"].values):
        return []
    shares = ds.share.sel(model="C", mask=masks).transpose("task", "mask").values
    shares = shares[np.isfinite(shares).all(1)]
    if not len(shares):
        return ["The causal check says nothing: of no task can the adapter's gain be told from 0."]
    medians = np.median(shares, axis=0)
    kept = [f"{median:.0%} in blocks {a} to {b}" for (a, b), median in zip(spans, medians, strict=True)]
    most = int(np.argmax(medians))
    lengths = [str(int(b) - int(a) + 1) for a, b in spans]
    long = f"{lengths[0]} blocks each" if len(set(lengths)) == 1 else f"{_listed(lengths)} blocks"
    said = [
        f"Causal check: with each task's adapter in one band only, the median over {count(len(shares), 'task')} of the "
        f"share of its gain that is kept is: {_listed(kept)}. It is largest in band {most + 1} on "
        f"{(shares.argmax(1) == most).sum()} of them. The bands have {long}."
    ]
    if cka is not None:
        names = [str(name) for name in cka.layer_a.values]
        base = same_layer(cka, "base | C")[:, [names.index(f"block {b}") for _, b in spans]]
        # Both models have the same embeddings: before the first block they are equal, whatever CKA has to say there.
        falls_of = -np.diff(base, axis=1, prepend=1.0)  # of each task in each band
        dropped = mean_present(falls_of)
        if not np.isfinite(dropped).all():
            return said
        where, second = (int(i) for i in np.argsort(-dropped, kind="stable")[:2])
        values = f"{dropped[where]:.2f} of CKA, on the mean over tasks"
        falls = f"base | C falls most in band {where + 1} ({values}{_not_sure(falls_of, where, second)})"
        if where == most:
            return [*said, f"CKA points to the same band: {falls}."]
        if len(shares) < 2:
            return [*said, f"CKA points to another band, on one task: {falls}."]
        more = bootstrap_mean(shares[:, most] - shares[:, where], statistic="median")
        interval = (
            f"median over tasks of the difference of shares {more.value:+.2f}, {more.low:+.2f} to {more.high:+.2f}"
        )
        if more.low <= 0:
            said.append(
                f"CKA does not contradict: {falls}, and that band {most + 1} keeps more is not shown ({interval})."
            )
        else:
            said.append(f"CKA does not agree: {falls}, while band {most + 1} keeps more of the gain ({interval}).")
    return said


def _not_sure(falls: np.ndarray, where: int, second: int) -> str:
    """What is to be added where the next band's fall could as well be the largest: falls `[tasks, bands]`."""
    difference = (falls[:, where] - falls[:, second])[np.isfinite(falls[:, where] - falls[:, second])]
    if len(difference) < 2:
        return ", of one task"
    found = bootstrap_mean(difference)
    if found.low > 0:
        return ""
    interval = f"95 %: {found.low:+.2f} to {found.high:+.2f}"
    return f"; that this is more than in band {second + 1} is not shown: {found.value:+.2f}, {interval}"


def cluster_findings(ds: xr.Dataset) -> list[str]:
    """In which layers the clusters are more than their tasks."""
    said = []
    layers = [str(name) for name in ds.layer.values]
    for measure, what in SCORES.items():
        for model in ds.model.values:
            own = ds.score.sel(model=model, measure=measure)
            value, mean, p = (own.sel(statistic=name).values for name in ("value", "null_mean", "p_value"))
            if not np.isfinite(value).any():
                continue
            sure = int((p <= SURE).sum())
            best = int(np.nanargmax(value - mean))
            if value[best] <= mean[best]:
                said.append(f"Clusters of tasks under {model}: {what} exceeds chance in no layer.")
                continue
            said.append(
                f"Clusters of tasks under {model}: {what} is above chance (p ≤ {SURE}, layer by layer, not corrected) "
                f"in {sure} of {count(int(np.isfinite(value).sum()), 'layer')}; it exceeds chance most at "
                f"{layers[best]} ({number(value[best])} against {number(mean[best])})."
            )
    return said


def readability_findings(table: pd.DataFrame) -> list[str]:
    """Correlations that hold for all layers together, or that there is none."""
    table = table.assign(
        r=pd.to_numeric(table.r, errors="coerce"), p=pd.to_numeric(table.p_familywise, errors="coerce")
    )
    table = table[table.r.notna()]
    if table.empty:
        return []
    found = table.loc[table.groupby(["pair", "measure"], sort=False).p.idxmin()]
    sure = [
        f"{row.measure.replace('_', ' ')} with {row.pair} at {row.layer} (r = {row.r:+.2f}, p = {row.p:.3f})"
        for row in found[found.p <= SURE].itertuples()
    ]
    tasks = count(int(table.n.max()), "task")
    if sure:
        looked = f"of {len(found)} looked at" if len(found) > 1 else "the only one looked at"
        return [f"Correlations over {tasks} that hold for all layers together (p ≤ {SURE}), {looked}: {_listed(sure)}."]
    measures = _listed([name.replace("_", " ") for name in dict.fromkeys(table.measure)])
    return [f"Over {tasks}, no correlation of {measures} with CKA holds for all layers together (p > {SURE})."]


def _listed(texts: list[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
