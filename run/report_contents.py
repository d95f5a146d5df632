"""What a report holds: its figures, the tables that these are drawn from, and its sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lorajax.files import write_text
from run import adapter_report, figures, published
from run.findings import cka_findings, loss_findings, unseen_findings
from run.layer_findings import ablation_findings, band_findings, cluster_findings, readability_findings
from run.page import derived
from run.report_results import Found


def write_derived(results: Path, found: Found, beside: published.Section | None) -> None:
    """The tables that only a report needs, among the other results."""
    tables = {"published": None if beside is None else beside.table}
    tables["training"] = None if found.metrics is None else derived.training_table(found.metrics)
    if found.adapters is not None:
        pairs = found.adapters["pairs"]
        tables["adapter_spectra"] = derived.spectra_table(pairs)
        if adapter_report.SHARE in pairs.measure.values:
            tables["adapters_by_layer"] = derived.layer_distances(pairs, adapter_report.SHARE)
    for name, table in tables.items():
        if table is not None:
            write_text(results / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))


def interactive(found: Found, beside: published.Section | None) -> set[str]:
    """The figures of the page that there is something for."""
    names: set[str] = set()
    if found.cka is not None:
        names |= {"cka_by_layer", "cka_all_layers", "cka_by_task", "cka_estimators"}
    if found.bands is not None and found.by_layer is not None:
        names.add("bands_by_layer")
    if found.embedding is not None:
        names |= {"task_maps", "clusters"}
    single = {"losses": found.losses, "training": found.metrics, "ablation": found.ablation}
    single |= {"spectrum": found.spectrum, "readability": found.correlations}
    names |= {name for name, result in single.items() if result is not None}
    if found.adapters is not None:
        names |= found.adapters["figures"].keys()
    if beside is not None:
        names.add("published_curves" if beside.bands else "published_projections")
    return names


def drawn(found: Found, beside: published.Section | None) -> dict[str, Figure]:
    """The figures for a paper, by name."""
    made: dict[str, Figure] = {}
    if found.cka is not None:
        made["cka_by_layer"] = figures.layer_boxplot(found.cka)
        made["cka_all_layers"] = figures.layer_heatmaps(found.cka)
        made["cka_by_task"] = figures.task_curves(found.cka)
        made["cka_estimators"] = figures.estimator_gap(found.cka)
    if found.bands is not None and found.by_layer is not None:
        made["bands_by_layer"] = figures.bands_by_layer(found.by_layer, found.bands)
    if found.losses is not None:
        made["losses"] = figures.loss_bars(found.losses)
    if found.metrics is not None:
        made["training"] = figures.training_curves(found.metrics)
    if found.spectrum is not None:
        made["spectrum"] = figures.spectrum_by_layer(found.spectrum)
    if found.embedding is not None:
        made["task_maps"] = figures.task_maps(found.embedding)
        made["clusters"] = figures.cluster_scores(found.embedding)
    if found.correlations is not None:
        made["readability"] = figures.readability_by_layer(found.correlations)
    if found.ablation is not None:
        made["ablation"] = figures.band_shares(found.ablation)
    if found.adapters is not None:
        made |= found.adapters["figures"]
    if beside is not None:
        made |= beside.figures
    return made


def findings_of(found: Found, record: dict[str, Any], unit: str) -> dict[str, list[str]]:
    """The sentences of the summary, each computed from the results, by the section that they are about."""
    cka, bands, adapters = found.cka, found.bands, found.adapters
    said = {
        "learned": loss_findings(found.losses, unit) if found.losses is not None else [],
        "layers": cka_findings(cka) + unseen_findings(record["data"]["tasks"], cka) if cka is not None else [],
        "bands": [
            *(band_findings(bands) if bands is not None else []),
            *(ablation_findings(found.ablation, bands, cka) if found.ablation is not None else []),
        ],
        "spaces": [
            *(cluster_findings(found.embedding) if found.embedding is not None else []),
            *(readability_findings(found.correlations) if found.correlations is not None else []),
        ],
        "weights": adapters["findings"] if adapters is not None else [],
    }
    return {section: sentences for section, sentences in said.items() if sentences}
