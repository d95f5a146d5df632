"""Merges LoRA adapters over one base model into one PEFT adapter, which is loaded and compared as any other.

    python -m run.merge_adapters OUT ADAPTER ADAPTER... --method average
    python -m run.merge_adapters OUT A B --method linear --weights 1 -0.5
    python -m run.merge_adapters OUT A B --method ties --weights 0.5 0.5 --density 0.2 --rank 16
    python -m run.finetune STUDY --eval-only --adapter merged=OUT

ADAPTER is a PEFT folder, such as STUDY/adapters/TASK. Ranks, scales, modules and layers may differ. `average`, `linear`
and `knots` are made from the factors and are exact at the default rank; `ties` and `dare_*` are cut to a rank, and the
share of the squared norm that is lost is told. OUT gets the adapter, and in `lorajax.json` what it was made from. An
adapter there is replaced if it was merged too; anything else in OUT is left alone, with an error.

One adapter with `--weights -1` is negated: a model that unlearns its task.

`--json`: `rank`, `norm` and `discarded` share of the merged adapter; `modules`, the same of each.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from lorajax.errors import LorajaxError
from lorajax.files import fingerprint
from lorajax.lora.merge import MergeConfig, Merged, merge_adapters
from lorajax.lora.peft import CONFIG, WEIGHTS, load_adapter, save_adapter
from lorajax.models.named import config_of
from run.__main__ import cli
from run.terminal import command, result, show_table, wrote

NOTES = "lorajax.json"


@dataclasses.dataclass(frozen=True)
class MergeAdapters:
    """Merge LoRA adapters over one base model into one."""

    out: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]
    """PEFT folder to write: new, empty, or an adapter that was merged before."""
    adapters: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="ADAPTER...")]]
    """PEFT folders to merge."""
    base: str | None = None
    """Their base model, of which the config is read; by default the one that their adapter_config.json names."""
    merge: tyro.conf.OmitArgPrefixes[MergeConfig] = MergeConfig()

    def __post_init__(self):
        if not self.adapters:
            raise LorajaxError("expected OUT and at least one ADAPTER folder")
        self.merge.factors(len(self.adapters))


def merge(options: MergeAdapters) -> Merged:
    """Loads, merges and writes.

    Raises:
      LorajaxError: an adapter that cannot be read, adapters of different base models, or `out` holds something else.
    """
    check_out(options.out, options.adapters)
    base, model = base_of(options.adapters, options.base), trained_over(options.adapters)
    config = config_of(base)
    merged = merge_adapters([load_adapter(folder, config)[0] for folder in options.adapters], options.merge)
    paths = list(merged.norms)
    notes = {
        "name": options.out.name,
        "model": model,
        "merged": {
            **{key: value for key, value in dataclasses.asdict(options.merge).items() if value is not None},
            "weights": options.merge.factors(len(options.adapters)),
            "adapters": [{"folder": str(f), "adapter": _fingerprint(f)} for f in options.adapters],
            "discarded": {path: _share(merged.discarded(path)) for path in paths} | {"all": _share(merged.discarded())},
        },
    }
    save_adapter(merged.adapter, merged.lora, options.out, base=base, notes=notes)
    show(merged)
    wrote(options.out, note=f": {len(options.adapters)} adapters merged by {options.merge.method}")
    return merged


def check_out(out: Path, sources: Sequence[Path]) -> None:
    """Raises LorajaxError unless `out` is new, empty, or holds a merged adapter that is none of `sources`."""
    if out.resolve() in {folder.resolve() for folder in sources}:
        raise LorajaxError(f"{out}: is also to be merged; name another folder to write")
    if out.exists() and not out.is_dir():
        raise LorajaxError(f"{out}: is a file; expected a folder to write the adapter to")
    if out.is_dir() and (held := sorted(p.name for p in out.iterdir())) and "merged" not in _notes(out):
        raise LorajaxError(f"{out}: holds {held[0]}, and no adapter that was merged before; name another folder")


def base_of(folders: Sequence[Path], base: str | None) -> str:
    """The base model of the adapters in `folders`: `base`, or the one that all their files name.

    Raises:
      LorajaxError: a folder without adapter_config.json; without `base`, files that name none or different ones.
    """
    named: dict[str, Path] = {}
    for folder in folders:
        name = _read(folder / CONFIG).get("base_model_name_or_path")
        if not isinstance(name, str) or not name:
            name = ""
        named.setdefault(name, folder)
    if base is not None:
        return base
    if "" in named:
        raise LorajaxError(f"{named[''] / CONFIG}: names no base model; name it with --base")
    if len(named) > 1:
        (first, a), (second, b) = list(named.items())[:2]
        raise LorajaxError(f"{a} is an adapter of {first}, {b} of {second}: if they are the same, name it with --base")
    return next(iter(named))


def trained_over(folders: Sequence[Path]) -> str | None:
    """The fingerprint of the base model that the adapters in `folders` were trained over, where it was written down.

    Raises:
      LorajaxError: they were trained over different weights, whose sum means nothing.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        model = _notes(folder).get("model")
        if isinstance(model, str):
            found.setdefault(model, folder)
    if len(found) > 1:
        (first, a), (second, b) = list(found.items())[:2]
        raise LorajaxError(
            f"{b}: was trained over the base model {second}, and {a} over {first} (fingerprints in {NOTES}); "
            "expected adapters of one base model"
        )
    return next(iter(found), None)


def show(merged: Merged) -> None:
    """Prints the rank, the norm and the discarded share of each module."""
    rows = [
        [
            path,
            str(np.count_nonzero(merged.adapter[path].scale)),
            str(merged.adapter[path].a.shape[3]),
            f"{np.sqrt(norms.sum()):.4g}",
            _percent(merged.discarded(path)),
        ]
        for path, norms in merged.norms.items()
    ]
    norm = np.sqrt(sum(norms.sum() for norms in merged.norms.values()))
    rows.append(["all", "", str(merged.lora.rank), f"{norm:.4g}", _percent(merged.discarded())])
    modules = [
        {"module": path, "rank": merged.adapter[path].a.shape[3]}
        | {"norm": np.sqrt(norms.sum()), "discarded": merged.discarded(path)}
        for path, norms in merged.norms.items()
    ]
    result(rank=merged.lora.rank, norm=norm, discarded=merged.discarded(), modules=modules)
    show_table("Merged update", ["module", "layers", "rank", "norm", "squared norm\ndiscarded"], rows)


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.2f} %"


def _share(share: float) -> float | None:
    return None if np.isnan(share) else share


def _fingerprint(folder: Path) -> str:
    return fingerprint([folder / CONFIG, folder / WEIGHTS])


def _notes(folder: Path) -> dict[str, Any]:
    return _read(folder / NOTES) if (folder / NOTES).exists() else {}


def _read(file: Path) -> dict[str, Any]:
    try:
        keys = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise LorajaxError(f"{file}: {error.strerror}; expected a PEFT adapter folder") from None
    except (ValueError, RecursionError) as error:
        raise LorajaxError(f"{file}: not JSON: {error}") from None
    if not isinstance(keys, dict):
        raise LorajaxError(f"{file}: holds {keys!r:.60}; expected an object")
    return keys


def main() -> None:
    """Entry point of `python -m run.merge_adapters`."""
    example = "merged studies/demo/adapters/capital_city studies/demo/adapters/arithmetic"
    merge(cli(MergeAdapters, prog="python -m run.merge_adapters", description=__doc__, example=example))


if __name__ == "__main__":
    command(main)
