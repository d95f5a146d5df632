"""What the CKA of many tasks says of the layers: means with intervals over tasks, and bands of alike layers."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pandas as pd
import xarray as xr

from analysis.bands import band_test, bootstrap_bands, choose_bands
from analysis.cka import Estimator
from analysis.inference import Mean, Statistic, bootstrap_mean
from run.figures import same_layer

#: Layers that a band has at least.
MIN_WIDTH = 2
COLUMNS = ["curves", "band", "first", "last", "begins_low", "begins_high", "explained", "p_value", "tasks", "schwarz"]


def by_layer(ds: xr.Dataset, estimator: Estimator, *, replicates: int, seed: int) -> xr.Dataset:
    """Mean and median over tasks of the same-layer CKA of every pair of models, with 95 % intervals over tasks.

    Tasks are drawn with replacement, of equal weight. `tasks` counts those that have a value at the layer.
    """
    pairs = [str(pair) for pair in ds.pair.values]
    columns: dict[str, list[np.ndarray]] = {}
    for pair in pairs:
        values = same_layer(ds, pair, estimator)
        for statistic in get_args(Statistic):
            found = _mean(values, statistic, replicates, seed)
            for name, own in (("", found.value), ("_low", found.low), ("_high", found.high)):
                columns.setdefault(statistic + name, []).append(own)
        columns.setdefault("tasks", []).append(found.n)
    return xr.Dataset(
        {name: (("pair", "layer"), np.stack(own)) for name, own in columns.items()},
        coords={"pair": pairs, "layer": ds.layer.values},
        attrs={"estimator": estimator, "provenance": ds.attrs.get("provenance", "")},
    )


def bands_table(ds: xr.Dataset, estimator: Estimator, *, k: int, replicates: int, seed: int) -> pd.DataFrame:
    """The blocks of the model cut into k bands by their curves of same-layer CKA, or into as many as there is room for.

    The curves of `base | C` and `E | C` of all tasks are cut together, and those of each pair of models by themselves.
    Embedding and final norm are no blocks, and take no part. `begins_low` and `begins_high` bound, at 95 % over tasks,
    where the band begins; `p_value` is that gradual curves are explained as well by as many bands; `schwarz` is the
    number of bands by Schwarz's criterion, an upper bound.
    """
    names = [str(name) for name in ds.layer.values]
    blocks = [i for i, name in enumerate(names) if name.startswith("block ")]
    pairs = [str(pair) for pair in ds.pair.values]
    together = [pair for pair in ("base | C", "E | C") if pair in pairs]
    rows: list[dict[str, Any]] = []
    for chosen in ([together] if len(together) == 2 else []) + [[pair] for pair in pairs]:
        curves = np.stack([same_layer(ds, pair, estimator)[:, blocks] for pair in chosen], axis=1)  # [tasks, pairs, L]
        curves = curves[np.isfinite(curves).any((1, 2))]
        usable = np.isfinite(curves).any((0, 1)).sum() if len(curves) else 0
        bands = min(k, usable // MIN_WIDTH)
        if bands < 1:
            continue
        found = bootstrap_bands(curves, bands, min_width=MIN_WIDTH, replicates=replicates, seed=seed)
        whole = np.isfinite(curves).all((0, 1)).sum() >= bands * MIN_WIDTH
        test = band_test(curves, bands, min_width=MIN_WIDTH, seed=seed) if bands > 1 and whole else None
        most = min(6, usable // MIN_WIDTH)
        starts = [0, *found.bands.cuts]
        for band, (first, end) in enumerate(zip(starts, [*found.bands.cuts, len(blocks)], strict=True)):
            sure = band > 0 and len(curves) > 1
            rows.append(
                {
                    "curves": " and ".join(chosen),
                    "band": band + 1,
                    "first": names[blocks[first]],
                    "last": names[blocks[end - 1]],
                    "begins_low": names[blocks[found.low[band - 1]]] if sure else "",
                    "begins_high": names[blocks[found.high[band - 1]]] if sure else "",
                    "explained": found.bands.explained,
                    "p_value": np.nan if test is None else test.p_value,
                    "tasks": len(curves),
                    "schwarz": choose_bands(curves, most, min_width=MIN_WIDTH).k,
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def _mean(values: np.ndarray, statistic: Statistic, replicates: int, seed: int) -> Mean:
    """Of one task there is a value and no interval."""
    if len(values) > 1:
        return bootstrap_mean(values, statistic=statistic, replicates=replicates, seed=seed)
    none = np.full(len(values[0]), np.nan)
    there = np.isfinite(values[0]).astype(int)
    return Mean(value=values[0], low=none, high=none, standard_error=none, n=there)
