"""An encoder with its tokenizer, and classification tasks, small enough to make in a test."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import pre_tokenizers

from lorajax.models.kinds import build
from lorajax.models.roberta_config import RobertaConfig
from lorajax.models.weights import save_hf

#: A few rows more than the tokenizer has tokens, as checkpoints have them.
TINY_ENCODER = RobertaConfig(
    vocab_size=264, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, max_positions=256,
    initializer_range=0.1,
)  # fmt: skip


def tiny_encoder(folder: Path, config: RobertaConfig = TINY_ENCODER) -> Path:
    """A Hugging Face folder with random weights and a tokenizer of bytes, as vocab.json and merges.txt."""
    save_hf(build(config), folder)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def tiny_tasks(folder: Path, count: int = 60) -> Path:
    """Three tasks that can be learnt from single words: `rte` and `mnli` of pairs of sentences, `sst2` of one."""
    draw = random.Random(0)
    words = ["tree", "house", "river", "cloud", "stone"]
    kinds = {
        "rte": ("nli", {"same": "entailment", "other": "contradiction"}),
        "mnli": ("nli", {"all": "entailment", "some": "neutral", "none": "contradiction"}),
        "sst2": ("sentiment", {"fine": "positive", "awful": "negative"}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for task, (cluster, labels) in kinds.items():
        rows = []
        for i in range(count):
            word, label = list(labels.items())[i % len(labels)]
            text = f"{word} {draw.choice(words)} {draw.choice(words)} {i}"
            text = text if task == "sst2" else f"sentence 1: {text}\nsentence 2: {draw.choice(words)}"
            row = {"task": task, "cluster": cluster, "definition": "Say which.", "input": text, "targets": [label]}
            rows.append(row | ({"options": ["negative", "positive"]} if task == "sst2" else {}))
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
