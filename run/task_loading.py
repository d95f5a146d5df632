"""The tasks that a study's settings name: read, checked and cut to size, with what was left out told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from lorajax.data.reading import Reading
from lorajax.data.repeats import constant_prompts, without_constant_prompts
from lorajax.data.sources import Limits, open_source
from lorajax.data.task import Task, matches, select_tasks
from lorajax.errors import LorajaxError
from run.options import MULTI_TASK, DataConfig
from run.terminal import say

#: HSIC_1 is defined for four examples or more.
LEAST_TEST = 4


def load_tasks(config: DataConfig) -> dict[str, Task]:
    """The tasks that the settings name, with at most the numbers of examples they allow; tells what was left out.

    Raises:
      LorajaxError: whatever is wrong with the data, or too few test rows are left for the debiased CKA.
    """
    reading = Reading(config.skip_bad_rows, say)
    source = open_source(config.data)
    clusters = source.clusters(reading)
    if require := getattr(source, "require", None):
        require(config.tasks)  # says which file a known task lacks, where "unknown task" would be no help
    names = select_tasks(clusters, config.tasks, config.clusters)
    seen = seen_by_multi_task(clusters, names, config)
    if related := getattr(source, "related", None):
        for name in names:
            if name not in seen and (others := [other for other in related(name) if other in seen]):
                say(f"task {name}: unseen by E, but of one data set with {', '.join(others)}, which E is trained on")
    folders = {MULTI_TASK.casefold(): MULTI_TASK}
    for name in names:
        # Adapters are folders, and some file systems do not tell upper from lower case.
        if (other := folders.setdefault(name.casefold(), name)) != name or name == MULTI_TASK:
            raise LorajaxError(f"task {name!r}: this name cannot be used beside {other!r}")
    # What is left out afterwards is made up for, as far as it may be.
    more = 2 if config.drop_constant_prompts else 1
    tasks = source.read(names, Limits(more * config.train_examples, more * config.test_examples), reading)
    for name in names:
        if config.drop_constant_prompts:
            tasks[name], dropped = without_constant_prompts(tasks[name])
            reading.drop(name, "repeat a prompt word for word", dropped)
        tasks[name] = task = dataclasses.replace(
            tasks[name], train=tasks[name].train[: config.train_examples], test=tasks[name].test[: config.test_examples]
        )
        if repeated := constant_prompts(task):
            of = f"{repeated} of {len(task.train) + len(task.test)} examples"
            say(f"task {name}: {of} repeat a prompt word for word (--drop-constant-prompts)")
        if len(task.test) < LEAST_TEST:
            raise LorajaxError(
                f"task {name!r}: {len(task.test)} test rows; the debiased CKA needs {LEAST_TEST} or more"
            )
        if not task.train:
            raise LorajaxError(f"task {name!r}: no rows are left to train on")
    if rows := sum(reading.read.values()):
        say(f"data: {rows:,} rows read, of {len(reading.read)} tasks")
    for line in reading.report():
        say(line)
    return {name: tasks[name] for name in names}


def seen_by_multi_task(clusters: Mapping[str, str], names: Sequence[str], config: DataConfig) -> list[str]:
    """Those of the tasks `names` that E is trained on: all but the `--unseen` ones.

    Raises:
      LorajaxError: an entry of `--unseen` that is none of the tasks and clusters, or that leaves nothing.
    """
    known = [*names, *{clusters[name] for name in names}]
    for entry in config.unseen:
        if not any(matches(other, entry) for other in known):
            raise LorajaxError(f"--unseen {entry}: none of the tasks and clusters {', '.join(sorted(known))}")
    seen = [n for n in names if not any(matches(n, e) or matches(clusters[n], e) for e in config.unseen)]
    if not seen:
        raise LorajaxError(f"--unseen {' '.join(config.unseen)}: leaves no task to train E on")
    return seen
