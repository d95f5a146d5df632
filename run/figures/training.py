"""Figures of training: held-out losses, and the course of loss and gradient norm."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from run.figures.layout import fitting, legend_outside, panels
from run.figures.style import MODEL_COLOURS, short, styled


@styled()
def loss_bars(losses: pd.DataFrame) -> Figure:
    """Held-out loss per task as dumbbells: from the base model (open) to the tuned one (filled), for E and for C.

    Columns used: task, cluster, model, before, after.
    """
    grouped = pd.concat([rows for _, rows in losses.groupby("cluster", sort=False)])
    named = {t: f"{short(t)}  ({short(c, 22)})" for t, c in zip(grouped.task, grouped.cluster, strict=True)}
    if fitting(50) < 50:  # letters
        named = {t: short(t, 24) for t in named}
    place = {task: row for row, task in enumerate(named)}
    figure, [axes] = panels(1, height=0.75 + 0.3 * len(place))
    for shift, (model, colour) in zip((-0.15, 0.15), MODEL_COLOURS.items(), strict=True):
        rows = losses[losses.model == model]
        y = rows.task.map(place).to_numpy(float) + shift
        axes.hlines(y, rows.before, rows.after, color=colour, linewidth=1.4)
        axes.scatter(rows.before, y, s=11, facecolor="white", edgecolor=colour, linewidth=0.9, zorder=3)
        axes.scatter(rows.after, y, s=14, color=colour, zorder=3, label=f"after tuning: {model}")
    axes.set_yticks(range(len(place)), named.values())
    axes.set(xlim=(0, None), ylim=(len(place) - 0.4, -0.6), xlabel="held-out loss (nats)")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.scatter([], [], s=11, facecolor="white", edgecolor="#555555", linewidth=0.9, label="before: base model")
    legend_outside(figure, axes.get_legend_handles_labels()[0])
    return figure


@styled()
def training_curves(metrics: pd.DataFrame) -> Figure:
    """Training loss and gradient norm by step, for E and for the control models (each, and their median).

    Columns used: step, model ("E" or a task), loss, and grad_norm if it is there. Long runs: means over equal bins.
    """
    names = [name for name in ("loss", "grad_norm") if name in metrics and metrics[name].notna().any()]
    figure, row = panels(len(names), height=2.3, narrowest=2.5)
    width = math.ceil((metrics.step.max() - metrics.step.min() + 1) / 200)
    for axes, name in zip(row, names, strict=False):
        wide = metrics.pivot_table(index="step", columns="model", values=name, aggfunc="last").sort_index()
        wide = wide.groupby(lambda step: (step - 1) // width * width + (width + 1) / 2).mean()
        controls = wide.drop(columns="E", errors="ignore")
        axes.plot(controls.index, controls, color=MODEL_COLOURS["C"], linewidth=0.5, alpha=0.4)
        axes.plot(controls.index, controls.median(axis=1), color=MODEL_COLOURS["C"], linewidth=1.5)
        if "E" in wide:
            axes.plot(wide.index, wide["E"], color=MODEL_COLOURS["E"], linewidth=1.3)
        label = {"loss": "training loss (nats)", "grad_norm": "gradient norm"}[name]
        axes.set(xlabel="step" if width == 1 else f"step (means of {width} steps)", ylabel=label, ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
    looks = [("E", 1.3, 1.0), ("C: median", 1.5, 1.0), ("C: each task", 0.6, 0.5)]
    handles = [Line2D([], [], color=MODEL_COLOURS[t[0]], label=t, linewidth=w, alpha=a) for t, w, a in looks]
    legend_outside(figure, handles)
    return figure
