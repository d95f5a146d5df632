"""What a study's numbers say, and what to mind before believing them: tables in, sentences out.

No sentence says more than the numbers it is made from. A missing value takes no part in a mean, and a count says out of
how many. `run.report` prints these sentences.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from run.figures import mean_present, same_layer

FEW_PAIRS = 3  # pairs of tasks in one cluster
SMALL_N = 40  # test prompts: ten times the 4 that debiased CKA needs at least; below it, single prompts show


def loss_findings(losses: pd.DataFrame, unit: str = "answer token") -> list[str]:
    """What held-out losses, in nats per `unit`, did, in sentences."""
    said = []
    for model, who in (("E", "the multi-task model E"), ("C", "the control models C")):
        rows = losses[(losses.model == model) & losses.before.notna() & losses.after.notna()]
        change = rows.after - rows.before
        if len(rows):
            rose = f" It rose on {listed(rows.task[change > 0])}." if (change > 0).any() else ""
            fell = f"Held-out loss fell on {(change < 0).sum()} of {count(len(rows), 'task')} under {who}"
            said.append(f"{fell} (median change {change.median():+.3f} nats per {unit}).{rose}")
    after = losses.pivot_table(index="task", columns="model", values="after", sort=False).dropna()
    if {"E", "C"} <= set(after) and len(after):
        lower = after.index[after.E < after.C]
        names = f": {listed(lower)}" if len(lower) else ""
        said.append(
            f"E ended below the task's own control model on {len(lower)} of {count(len(after), 'task')}{names}."
        )
    return said


def cka_findings(ds: xr.Dataset) -> list[str]:
    """What same-layer debiased CKA shows, in sentences; a layer without a value takes no part."""
    layers = [str(label) for label in ds.layer_a.values]
    base, ours = same_layer(ds, "base | C"), same_layer(ds, "E | C")
    said = []
    for pair, mean in (("base | C", mean_present(base)), ("E | C", mean_present(ours))):
        if not np.isfinite(mean).any():
            said.append(f"{pair}: no layer has a value.")
            continue
        high, low = np.nanargmax(mean), np.nanargmin(mean)
        ends = f"highest at {layers[high]} ({number(mean[high])}) and lowest at {layers[low]} ({number(mean[low])})"
        said.append(f"{pair}: same-layer CKA, mean over {count(len(base), 'task')}, is {ends}.")
    both = np.isfinite(base + ours)
    base, ours = np.where(both, base, np.nan), np.where(both, ours, np.nan)
    if not both.any():
        return said
    gap = mean_present(ours - base)
    most = np.nanargmax(np.abs(gap))
    values = f"{number(mean_present(ours)[most])} against {number(mean_present(base)[most])}"
    said.append(f"E | C and base | C differ most at {layers[most]}: {values} on the mean over tasks.")
    below, above = np.flatnonzero(gap < 0), np.flatnonzero(gap > 0)
    for where, word in ((above, "above"), (below, "below")):
        if where.size:
            total = f"{where.size} of {count(np.isfinite(gap).sum(), 'layer')}"
            said.append(f"E | C is {word} base | C on the mean at {total}: {spans(where, layers)}.")
    blocks = [i for i, label in enumerate(layers) if label.startswith("block ")]
    last = blocks[-max(1, len(blocks) // 4) :]
    depth = mean_present(ours[:, last].T)
    if np.isfinite(depth).sum() > 1:
        near, far = np.nanargmax(depth), np.nanargmin(depth)
        closest, farthest = (f"{ds.task.values[t]} (mean E | C {number(depth[t])})" for t in (near, far))
        depths = f"In the last {'block' if len(last) == 1 else count(len(last), 'block')} ({spans(last, layers)})"
        said.append(f"{depths}, E is closest to the task's control model on {closest} and farthest on {farthest}.")
    for pair in ("base | C", "E | C"):
        added = mean_present(same_layer(ds, pair, "biased") - same_layer(ds, pair))
        if np.isfinite(added).any():
            most = np.nanargmax(np.abs(added))
            size = f"{np.nanmean(added):+.3f} on the mean over layers and tasks, most at {layers[most]}"
            said.append(f"The biased estimate of {pair} differs from the debiased by {size} ({added[most]:+.3f}).")
    return said


def unseen_findings(tasks: Mapping[str, Mapping[str, Any]], ds: xr.Dataset) -> list[str]:
    """How the tasks that E was not trained on differ from the others in the deeper half of the blocks, in a sentence.

    `tasks` are the study's, each with `seen` where the study was made with it.
    """
    names = [str(name) for name in ds.task.values]
    seen = np.array([tasks.get(name, {}).get("seen", True) for name in names])
    blocks = [i for i, label in enumerate(ds.layer_a.values) if str(label).startswith("block ")]
    if seen.all() or not seen.any() or not blocks:
        return []
    deeper = blocks[len(blocks) // 2 :]
    told = []
    for which, own in (("was not trained on", ~seen), ("was trained on", seen)):
        means = [number(np.nanmean(mean_present(same_layer(ds, p)[own])[deeper])) for p in ("E | C", "base | C")]
        told.append(f"on {count(int(own.sum()), 'task')} that E {which}, E | C is {means[0]} and base | C {means[1]}")
    return [f"Same-layer CKA in the deeper half of the blocks, mean over tasks: {'; '.join(told)}."]


def warnings(record: dict[str, Any], losses: pd.DataFrame | None, ds: xr.Dataset | None) -> dict[str, list[str]]:
    """What a reader must know before believing the numbers: sentences, by the section of the report they are about."""
    said = {
        "layers": [] if ds is None else cka_warnings(record, ds),
        "learned": cut_warnings(record["data"]["tasks"]),
        "spaces": cluster_warnings(record["data"]["tasks"]),
        "weights": cluster_warnings(record["data"]["tasks"]),
    }
    for section, what, have in (("learned", "held-out loss", losses), ("layers", "CKA", ds)):
        if have is not None and (rest := [t for t in record["data"]["tasks"] if t not in set(np.unique(have["task"]))]):
            said[section].append(f"No {what} has been computed for {listed(rest)}.")
    if losses is not None and (bad := losses.before.isna() | losses.after.isna()).any():
        said["learned"].append(f"A held-out loss is not a number for {listed(losses.task[bad].unique())}.")
    return {section: sentences for section, sentences in said.items() if sentences}


def cut_warnings(tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Which tasks have examples longer than the length limit."""
    said = []
    for key, what in (("cut_prompts", "prompts"), ("cut_answers", "answers")):
        if cut := [f"{task} ({facts[key]})" for task, facts in tasks.items() if facts.get(key)]:
            kept = "; the end of a prompt is always kept" if key == "cut_prompts" else ""
            said.append(f"Some {what} were cut to the length limit: {listed(cut)}{kept}.")
    return said


def cluster_warnings(tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whether so few tasks share a cluster that a pair of them speaks for all clusters."""
    of: dict[str, list[str]] = {}
    for task, facts in tasks.items():
        of.setdefault(str(facts["cluster"]), []).append(task)
    shared = [own for own in of.values() if len(own) > 1]
    pairs = sum(len(own) * (len(own) - 1) // 2 for own in shared)
    if not shared or pairs >= FEW_PAIRS:
        return []
    told = listed(task for own in shared for task in own)
    alone, them = ("1 pair of tasks shares", "it") if pairs == 1 else (f"{pairs} pairs of tasks share", "them")
    return [f"Only {alone} a cluster ({told}): what is said of clusters rests on {them}."]


def cka_warnings(record: dict[str, Any], ds: xr.Dataset) -> list[str]:
    """Few prompts or tasks, repeated states, and results of another model, data or E than the study's."""
    said = []
    if small := [f"{t} (n = {n})" for t, n in zip(ds.task.values, ds.n.values, strict=True) if n < SMALL_N]:
        said.append(f"Fewer than {SMALL_N} test prompts: {listed(small)}. There, a few prompts can move CKA visibly.")
    if ds.sizes["task"] < 5:
        said.append(
            f"Box plots and means are over {count(ds.sizes['task'], 'task')} only: read the points, not the boxes."
        )
    repeats = ds.duplicates.where(ds.reason == "", 0).max(("model", "layer"))
    if found := [
        f"{t} (up to {int(k)} of {int(ds.n.sel(task=t))})" for t, k in zip(ds.task.values, repeats, strict=True) if k
    ]:
        said.append(f"Hidden states that repeat an earlier prompt's exactly: {listed(found)}. They can inflate CKA.")
    made = pd.DataFrame(json.loads(ds.attrs.get("provenance", "{}"))).T  # a row per task
    for key in [key for key in ("model", "data") if key in made]:
        if set(made[key].dropna()) - {record[key]["fingerprint"]}:
            said += [f"CKA was computed with another {key} than study.json names: the fingerprints differ."]
    if "E" in made and made["E"].nunique() > 1:
        said.append("CKA of different tasks was computed with different versions of E.")
    return said


def count(n: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def number(value: float) -> str:
    """A CKA or loss value to three decimals; a missing one is called that."""
    return "missing" if np.isnan(value) else f"{value:.3f}".replace("-0.000", "0.000")


def listed(names: Iterable[object], most: int = 12) -> str:
    """`a`, `a and b`, `a, b and c`; after `most` names, how many more there are."""
    texts = [str(name) for name in names]
    if len(texts) > most:
        texts = [*texts[:most], f"{len(texts) - most} more"]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def spans(indices: Iterable[int], labels: list[str]) -> str:
    """Runs of neighbouring layers: `block 1 to block 8, final norm`."""
    runs: list[list[int]] = []
    for i in indices:
        if runs and i == runs[-1][-1] + 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return ", ".join(labels[r[0]] if len(r) == 1 else f"{labels[r[0]]} to {labels[r[-1]]}" for r in runs)
