"""What a study would be, before anything is fetched or trained: settings with sources, data, memory, time and price."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping
from pathlib import Path

from lorajax.data.mixture import quotas
from lorajax.data.reading import Reading
from lorajax.data.sources import Limits, open_source
from lorajax.data.task import select_tasks
from lorajax.errors import LorajaxError
from lorajax.models.kinds import is_encoder, read_config
from lorajax.models.named import config_of
from run import recipes
from run.options import DataConfig, StudyConfig
from run.plan import Plan, plan, show
from run.task_loading import seen_by_multi_task
from run.terminal import result, say, show_table
from run.workbench import even_groups

#: Sources that may have to be fetched, or are too large, to be counted.
UNCOUNTED = ("flan2021", "mapped", "ni")

#: Tasks that are planned for where the data are not there to be counted.
ASSUMED_TASKS = 24


def dry_run(config: StudyConfig, bases: Mapping[str, str], out: Path) -> None:
    """Prints the settings, the data there are, and what the study takes; reads no rows of large sources, no weights.

    Raises:
      LorajaxError: settings that no study could have. Data and models that are not there are told, not raised.
    """
    recipe = recipes.load(config.recipe) if config.recipe else None
    _show_settings(config, recipe, bases, out)
    found = _show_data(config.data)
    _show_cost(config, recipe, bases, found)


def _show_settings(config: StudyConfig, recipe: recipes.Recipe | None, bases: Mapping[str, str], out: Path) -> None:
    if recipe:
        say(f"recipe {recipe.name}: {recipe.about}")
    flags, defaults = config.flat(), StudyConfig().flat()
    rows = []
    for key, value in flags.items():
        named = recipe is not None and key in recipe.flags
        if key == "recipe" or (value == defaults[key] and not named) or (key == "model" and bases):
            continue
        changed = recipe is not None and value != recipe.flags.get(key, defaults[key])
        source = "given" if changed or recipe is None else recipe.sources.get(key, "recipe")
        rows.append([f"--{key.replace('_', '-')}", _text(value), source])
    if bases:
        source = recipe.sources.get("bases", "recipe") if recipe and "bases" in recipe.flags else "given"
        rows.append(["--bases", " ".join(f"{name}={model}" for name, model in bases.items()), source])
    title = f"Settings that are not the defaults; the study goes to {out}"
    show_table(title, ["flag", "value", "where from"], rows, words=(1, 2), only_result=True)
    result(settings=flags | ({"bases": dict(bases)} if bases else {}), data=None)


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclasses.dataclass(frozen=True)
class Found:
    """The tasks there are: their clusters, and the examples that each is trained on (`counted`, or at most so many)."""

    clusters: dict[str, str]
    examples: dict[str, int]
    counted: bool


def _show_data(config: DataConfig) -> Found | None:
    """Tells which tasks there are, and counts them unless they would have to be fetched; None when there are none."""
    try:
        source, reading = open_source(config.data), Reading(config.skip_bad_rows, say)
        known = source.clusters(reading)
        names = select_tasks(known, config.tasks, config.clusters)
        clusters = {name: known[name] for name in names}
        seen = set(seen_by_multi_task(clusters, names, config))
        local = config.data.partition(":")[0] not in UNCOUNTED
        examples = dict.fromkeys(names, config.train_examples)
        if local:
            tasks = source.read(names, Limits(config.train_examples, config.test_examples), reading)
            examples = {name: min(len(tasks[name].train), config.train_examples) for name in names}
    except LorajaxError as error:
        say(f"data: missing. {error}")
        return None
    rows = []
    for cluster in dict.fromkeys(clusters.values()):
        own = [name for name in names if clusters[name] == cluster]
        unseen = [name for name in own if name not in seen]
        kind = "no" if not unseen else "yes" if len(unseen) == len(own) else ", ".join(unseen)
        rows.append([cluster, str(len(own)), kind, f"{sum(examples[name] for name in own):,}", ", ".join(own)])
    counted = "examples" if local else "examples, at most"
    title = f"Data: {len(names)} tasks of {config.data}"
    show_table(title, ["cluster", "tasks", "unseen by E", counted, "which"], rows, words=(2, 4), only_result=True)
    told = {name: {"cluster": clusters[name], "examples": examples[name], "seen": name in seen} for name in names}
    result(data={"counted": local, "tasks": told})
    return Found(clusters, examples, local)


def _show_cost(
    config: StudyConfig, recipe: recipes.Recipe | None, bases: Mapping[str, str], found: Found | None
) -> None:
    if found is None:
        say(f"cost: planned for {ASSUMED_TASKS} tasks, since the data are not there to be counted")
        names = [f"task {i}" for i in range(ASSUMED_TASKS)]
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, unseen=()))
        found = Found(dict.fromkeys(names, "assumed"), dict.fromkeys(names, config.data.train_examples), False)
    tasks = len(found.clusters)
    steps, words = _steps(config, found)
    model = next(iter(bases.values()), config.model)
    given = recipe is None or model not in (recipe.flags.get("model"), *_bases_of(recipe))
    sizes = model if given or not recipe else recipe.sizes or model
    try:
        if (folder := Path(sizes).expanduser() / "config.json").exists() and is_encoder(read_config(folder)):
            raise LorajaxError(f"{sizes} is an encoder, and run.plan knows decoders only")
        model_config = config_of(sizes)
        if config.prompt.max_length > model_config.max_positions:
            raise LorajaxError(
                f"--max-length {config.prompt.max_length} is more than the {model_config.max_positions} positions "
                f"of {sizes}"
            )
        options = Plan(
            model=sizes,
            fleet=max(1, min(config.fleet_size, tasks)),
            length=config.prompt.max_length,
            answers=config.prompt.max_answer,
            tasks=tasks,
            examples=config.data.test_examples,
            dtype=config.dtype,
            quantize=config.quantize,
            mesh=config.mesh,
            lora=config.lora,
            train=config.train,
            accelerator=recipe.accelerator if recipe else "",
        )
        options = _with_steps(options, steps)
        say(f"steps: {words}; a group takes {options.train.steps:,} on average")
        say(f"compiling the training step of {sizes}; for other machines: {_plan_command(options)}")
        sections = plan(options)
        largest = next((line.value for line in sections["memory of each device"] if line.name.startswith("largest")), 0)
        if largest and largest < options.fleet:  # as the training itself will choose
            say(f"{options.fleet} adapters together do not fit; planned again for {largest}")
            sections = plan(_with_steps(dataclasses.replace(options, fleet=largest, search=False), steps))
    except LorajaxError as error:
        say(f"cost: cannot be planned. {error}")
        return
    show({title: sections[title] for title in ("target", "memory of each device", "comparing hidden states", "study")})
    if len(bases) > 1:
        say(f"for each of the {len(bases)} bases: {', '.join(bases)}")


def _bases_of(recipe: recipes.Recipe) -> list[str]:
    return [entry.partition("=")[2] for entry in recipe.flags.get("bases", [])]


def _steps(config: StudyConfig, found: Found) -> tuple[list[int], str]:
    """Optimizer steps of each adapter, E first, and what they are made of."""
    train = config.train
    if not train.epochs:
        return [train.steps] * (1 + len(found.clusters)), f"{train.steps} of each adapter"
    seen = seen_by_multi_task(found.clusters, list(found.clusters), config.data)
    mixed = quotas({n: found.examples[n] for n in seen}, {n: found.clusters[n] for n in seen}, config.mixture)
    multi, *own = (
        math.ceil(train.epochs * count / train.batch_size) for count in (sum(mixed.values()), *found.examples.values())
    )
    of_each = f"{min(own):,}" if min(own) == max(own) else f"{min(own):,} to {max(own):,}"
    most = "" if found.counted else ", at most"
    return [multi, *own], f"{multi:,} of E, {of_each} of each control model{most} ({train.epochs:g} epochs)"


def _with_steps(options: Plan, steps: list[int]) -> Plan:
    """`options` with the mean over groups: a group takes as many steps as its longest member."""
    longest = [group[0] for group in even_groups(sorted(steps, reverse=True), options.fleet)]
    mean = math.ceil(sum(longest) / len(longest))
    return dataclasses.replace(options, train=dataclasses.replace(options.train, steps=mean, epochs=0.0))


def _plan_command(options: Plan) -> str:
    """The command that plans the same for another machine."""

    def flat(plan: Plan) -> dict[str, object]:
        own = dataclasses.asdict(plan)
        groups = own.pop("lora"), own.pop("train")
        return own | groups[0] | groups[1]

    defaults, words = flat(Plan()), ["python", "-m", "run.plan"]
    for key, value in flat(options).items():
        if value == defaults[key] or key == "accelerator":
            continue
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else [value])]
    return shlex.join(words) + " --topology v5e:4x4"
