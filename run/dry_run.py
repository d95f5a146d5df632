"""What a study would be, before anything is fetched or trained: settings with sources, data, memory, time and price."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping
from pathlib import Path

from lorajax.data.batching import Layout
from lorajax.data.mixture import quotas
from lorajax.data.reading import Reading
from lorajax.data.sources import open_source
from lorajax.data.task import Task, select_tasks
from lorajax.data.token_cache import cached_tokenize
from lorajax.errors import LorajaxError
from lorajax.models.checkpoint import cache_folder, tokenizer_here
from lorajax.models.kinds import is_encoder, read_config
from lorajax.models.named import config_of
from run import recipes
from run.findings import SMALL_N
from run.options import MULTI_TASK, StudyConfig
from run.plan import Plan, plan, show
from run.task_loading import load_tasks, seen_by_multi_task
from run.terminal import result, say, show_table
from run.workbench import Workbench, even_groups

#: Sources that may have to be fetched, or are too large, to be counted.
UNCOUNTED = ("flan2021", "mapped", "ni")

#: Tasks that are planned for where the data are not there to be counted.
ASSUMED_TASKS = 24


def dry_run(config: StudyConfig, bases: Mapping[str, str], out: Path) -> None:
    """Prints the settings, the data there are, and what the study takes; reads no rows of large sources, no weights.

    Raises:
      LorajaxError: what the study would stop at: settings that no study could have, bad data, no such model. The data
        and the models that a recipe itself names need not be here.
    """
    recipe = recipes.load(config.recipe) if config.recipe else None
    _show_settings(config, recipe, bases, out)
    found = _show_data(config, optional=recipe is not None and config.data.data == recipe.flags.get("data"))
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
    if rows:
        title = f"Settings that are not the defaults; the study goes to {out}"
        show_table(title, ["flag", "value", "where from"], rows, words=(1, 2), only_result=True)
    else:
        say(f"all settings are the defaults; the study goes to {out}")
    result(settings=flags | ({"bases": dict(bases)} if bases else {}), data=None)


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclasses.dataclass(frozen=True)
class Found:
    """The tasks there are: their clusters, and the examples that each is trained on (`counted`, or at most so many).

    `layout`: the shape that holds any batch of an adapter; None where texts or tokenizer are not here.
    """

    clusters: dict[str, str]
    examples: dict[str, int]
    counted: bool
    layout: Layout | None = None


def _show_data(study: StudyConfig, *, optional: bool) -> Found | None:
    """Tells which tasks there are, and reads them unless they would have to be fetched.

    None where there are no data, and they are `optional`.
    """
    config = study.data
    try:
        known = open_source(config.data).clusters(Reading(config.skip_bad_rows))
    except LorajaxError as error:
        if not optional:
            raise
        say(f"data: not here to be counted. {error}")
        return None
    names = select_tasks(known, config.tasks, config.clusters)
    clusters = {name: known[name] for name in names}
    seen = set(seen_by_multi_task(clusters, names, config))
    local = config.data.partition(":")[0] not in UNCOUNTED
    tasks = load_tasks(config) if local else {}
    examples = {name: len(tasks[name].train) if local else config.train_examples for name in names}
    tests = {name: len(tasks[name].test) if local else config.test_examples for name in names}
    rows = []
    for cluster in dict.fromkeys(clusters.values()):
        own = [name for name in names if clusters[name] == cluster]
        unseen = [name for name in own if name not in seen]
        kind = "no" if not unseen else "yes" if len(unseen) == len(own) else ", ".join(unseen)
        counts = (f"{sum(of[name] for name in own):,}" for of in (examples, tests))
        rows.append([cluster, str(len(own)), kind, *counts, ", ".join(own)])
    most = "" if local else ", at most"
    columns = ["cluster", "tasks", "unseen by E", f"to train on{most}", f"test prompts{most}", "which"]
    show_table(f"Data: {len(names)} tasks of {config.data}", columns, rows, words=(2, 5), only_result=True)
    if few := [name for name in names if tests[name] < SMALL_N]:
        say(f"fewer than {SMALL_N} test prompts, so wide intervals: {', '.join(f'{n} ({tests[n]})' for n in few)}")
    told = {
        name: {"cluster": clusters[name], "examples": examples[name], "test": tests[name], "seen": name in seen}
        for name in names
    }
    result(data={"counted": local, "tasks": told})
    return Found(clusters, examples, local, _largest_layout(study, tasks) if local else None)


def _largest_layout(config: StudyConfig, tasks: dict[str, Task]) -> Layout | None:
    """The shape that holds any batch of an adapter; None where the tokenizer is not here, or tokens are no rows."""
    folder = Path(config.model).expanduser() / "config.json"
    if folder.exists() and is_encoder(read_config(folder)):
        return None
    tokenizer = tokenizer_here(config.model)
    if tokenizer is None:
        return None
    how = (tokenizer, config.prompt, cache_folder() / "tokens", None)
    train = {name: cached_tokenize(task.train, *how) for name, task in tasks.items()}
    bench = Workbench(config, None, tasks, train, {}, {})  # type: ignore[arg-type]  # no model is asked for
    return bench.largest_layout([MULTI_TASK, *tasks])


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
    optional = recipe is not None and not given
    try:
        if (folder := Path(sizes).expanduser() / "config.json").exists() and is_encoder(read_config(folder)):
            say(f"cost: {sizes} is an encoder, and run.plan knows decoders only")
            return
        model_config = config_of(sizes)
    except LorajaxError as error:
        if not optional:
            raise
        say(f"cost: cannot be planned. {error}")
        return
    if config.prompt.max_length > model_config.max_positions:
        raise LorajaxError(
            f"--max-length {config.prompt.max_length}: more than the {model_config.max_positions} positions of {sizes}"
        )
    prompt = config.prompt
    layout = found.layout or Layout(config.train.batch_size, prompt.max_length, prompt.max_answer)
    options = Plan(
        model=sizes,
        fleet=min(config.fleet_size, tasks + 1),
        length=layout.length,
        answers=layout.answers,
        tasks=tasks,
        examples=config.data.test_examples,
        dtype=config.dtype,
        quantize=config.quantize,
        mesh=config.mesh,
        lora=config.lora,
        train=dataclasses.replace(config.train, batch_size=layout.rows),
        accelerator=recipe.accelerator if recipe else "",
    )
    options = _with_steps(options, steps)
    say(f"steps: {words}; a group of adapters that are trained together takes {options.train.steps:,}{_mean(steps)}")
    known = "which hold any batch of these texts" if found.layout else "as --max-length allows; shorter texts take less"
    say(f"batch of an adapter: {layout.rows} rows of {layout.length} tokens, {known}")
    say(f"compiling the training step of {sizes}; for other machines: {_plan_command(options)}")
    sections = plan(options)
    largest = next((line.value for line in sections["memory of each device"] if line.name.startswith("largest")), 0)
    if largest and largest < options.fleet:  # as the training itself will choose
        say(f"{options.fleet} adapters together do not fit; planned again for {largest}")
        sections = plan(_with_steps(dataclasses.replace(options, fleet=largest, search=False), steps))
    show({title: sections[title] for title in ("target", "memory of each device", "comparing hidden states", "study")})
    if len(bases) > 1:
        say(f"for each of the {len(bases)} bases: {', '.join(bases)}")


def _mean(steps: list[int]) -> str:
    return "" if min(steps) == max(steps) else " on average"


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
