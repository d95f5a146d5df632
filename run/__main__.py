"""`lorajax NAME ...` is `python -m run.NAME ...`."""

from __future__ import annotations

import importlib
import sys

from run.terminal import command, say

COMMANDS = {
    "plan": "tell what a study takes on a machine: memory, time and price, without weights",
    "study": "train adapters, compare them across all layers, write the report",
    "finetune": "train a fleet of LoRA adapters over one frozen model",
    "cka_all_layers": "CKA of all layer pairs between base, multi-task and control models",
    "spectrum": "how the hidden states of each task spread, layer by layer",
    "embed_tasks": "maps of the tasks' prompts by layer, and how clustered they are",
    "readability": "correlate readability and size of the tasks with CKA",
    "ablate_layers": "apply adapters in some layers only: which layers a task needs",
    "compare_adapters": "compare adapters by their weights: distances, projections, the map of tasks",
    "score": "let the models of a study answer held-out prompts, and score the answers",
    "report": "write a study's report again from its results",
    "merge_adapters": "merge adapters of one base model into one PEFT adapter",
    "export": "write the model, with an adapter merged or without, as a Hugging Face folder",
}


def main() -> None:
    """Entry point of the console script."""
    name = sys.argv[1].replace("-", "_") if len(sys.argv) > 1 else "--help"
    if name not in COMMANDS:
        say("usage: lorajax NAME ...   (lorajax NAME --help tells more)\n")
        for known, purpose in COMMANDS.items():
            say(f"  {known:16} {purpose}")
        sys.exit(0 if name in ("-h", "--help") else 2)
    del sys.argv[1]
    command(importlib.import_module(f"run.{name}").main)


if __name__ == "__main__":
    main()
