"""The flags of the commands that compare hidden states, and what they name: a study, or models one by one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from lorajax.data.prompts import PromptConfig
from lorajax.errors import LorajaxError
from run.options import DataConfig, Dtype
from run.study_folder import StudyFolder
from run.subjects import HiddenConfig, NamedModels, StudySubject, Subject
from run.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is compared, and on which prompts."""

    paths: tyro.conf.Positional[tuple[str, ...]]
    """A study; or checkpoints and PEFT folders: MODEL MODEL, MODEL ADAPTER, MODEL ADAPTER ADAPTER, ..."""
    out: Path | None = None
    """Folder for the results when no study is named; a study gets its own."""
    hidden: tyro.conf.OmitArgPrefixes[HiddenConfig] = HiddenConfig()
    save_activations: bool = False
    """Keep the hidden states, as `activations/TASK.safetensors`: 4 bytes x models x layers x prompts x width each."""
    data: tyro.conf.OmitArgPrefixes[DataConfig] = DataConfig()
    prompt: tyro.conf.OmitArgPrefixes[PromptConfig] = PromptConfig()
    dtype: Dtype = "float32"
    """Of the weights and the arithmetic of models named one by one; a study has its own."""

    def __post_init__(self):
        if not self.paths:
            raise LorajaxError("name a study, or the models to compare; --help tells more")
        if len(self.paths) > 1 and self.out is None:
            raise LorajaxError("--out: name a folder for the results of models that are in no study")
        if len(self.paths) > 1:
            return
        if self.out is not None:
            raise LorajaxError(f"--out {self.out}: a study keeps its results; leave --out away")
        own = {"data": dataclasses.replace(self.data, tasks=()), "prompt": self.prompt, "dtype": self.dtype}
        for name, value in own.items():
            default = next(f.default for f in dataclasses.fields(self) if f.name == name)
            if value != default:
                raise LorajaxError(
                    f"a study has its own prompts and models: of the flags on {name}, only --tasks counts"
                )

    def subject(self, bench: Workbench | None = None) -> Subject:
        """The models to compare, with their tasks; what the study needs loaded may be given.

        Raises:
          LorajaxError: whatever is wrong with the paths, named.
        """
        if len(self.paths) == 1:
            return StudySubject(StudyFolder.open(Path(self.paths[0])), bench)
        assert self.out is not None
        return NamedModels(self.paths, self.out, self.data, self.prompt, self.dtype)

    def tasks(self, subject: Subject) -> list[str]:
        """The tasks of the subject that are asked for.

        Raises:
          LorajaxError: one that the subject does not have.
        """
        for task in self.data.tasks:
            if task not in subject.clusters:
                there = ", ".join(subject.clusters)
                raise LorajaxError(f"--tasks {task}: no trained adapter in {subject.path}; there are: {there}")
        return [task for task in subject.clusters if not self.data.tasks or task in self.data.tasks]
