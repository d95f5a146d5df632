"""The cache of tokenised examples: the same tokens, and never those of something else."""

import dataclasses
import os

import numpy as np
import pytest

from lorajax.data import token_cache
from lorajax.data.prompts import PromptConfig, tokenize
from lorajax.data.task import Example
from lorajax.data.token_cache import LEAST, cached_tokenize
from tests.tiny import tiny_tokenizer

EXAMPLES = [Example("a", "nli", f"number {i}", (f"{i}",), "Say it.") for i in range(LEAST)]
CONFIG = PromptConfig(max_length=32, max_answer=4)


def same(a, b):
    return (a.cut_prompts, a.cut_answers) == (b.cut_prompts, b.cut_answers) and all(
        np.array_equal(x, y) for x, y in zip((*a.prompts, *a.answers), (*b.prompts, *b.answers), strict=True)
    )


def files(folder):
    return sorted(file.name for file in folder.glob("*"))


def test_what_is_read_is_what_was_made(tmp_path):
    made = tokenize(EXAMPLES, tiny_tokenizer(), CONFIG)
    assert same(cached_tokenize(EXAMPLES, tiny_tokenizer(), CONFIG, tmp_path), made)
    (name,) = files(tmp_path)
    os.utime(tmp_path / name, (1, 1))
    read = cached_tokenize(EXAMPLES, tiny_tokenizer(), CONFIG, tmp_path)
    assert same(read, made)
    assert (tmp_path / name).stat().st_mtime > 1  # it was read: the time of its last use is noted
    assert {ids.dtype for ids in (*read.prompts, *read.answers)} == {np.dtype(np.int32)}


@pytest.mark.parametrize(
    "change",
    [
        {"examples": [*EXAMPLES[:-1], dataclasses.replace(EXAMPLES[-1], input="another")]},
        {"examples": [*EXAMPLES[:-1], dataclasses.replace(EXAMPLES[-1], options=("x",))]},
        {"examples": EXAMPLES[::-1]},
        {"config": dataclasses.replace(CONFIG, template="llama2")},
        {"tokenizer": tiny_tokenizer(bos=True)},
    ],
    ids=["input", "options", "order", "template", "tokenizer"],
)
def test_whatever_changes_is_made_anew(tmp_path, change):
    cached_tokenize(EXAMPLES, tiny_tokenizer(), CONFIG, tmp_path)
    how = {"examples": EXAMPLES, "tokenizer": tiny_tokenizer(), "config": CONFIG, **change}
    assert same(cached_tokenize(**how, folder=tmp_path), tokenize(**how))
    assert len(files(tmp_path)) == 2


def test_a_damaged_file_is_made_again(tmp_path):
    made = cached_tokenize(EXAMPLES, tiny_tokenizer(), CONFIG, tmp_path)
    (name,) = files(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"x" * 100):
        (tmp_path / name).write_bytes(damaged)
        assert same(cached_tokenize(EXAMPLES, tiny_tokenizer(), CONFIG, tmp_path), made)
    assert (tmp_path / name).read_bytes()[:2] == b"PK"


def test_few_examples_and_no_folder(tmp_path):
    cached_tokenize(EXAMPLES[:-1], tiny_tokenizer(), CONFIG, tmp_path)
    assert files(tmp_path) == []
    (tmp_path / "file").write_text("")
    made = cached_tokenize(EXAMPLES, tiny_tokenizer(), CONFIG, tmp_path / "file" / "folder")
    assert same(made, tokenize(EXAMPLES, tiny_tokenizer(), CONFIG))


def test_the_oldest_are_deleted(tmp_path, monkeypatch):
    for i in range(3):
        cached_tokenize(EXAMPLES[::-1] if i else EXAMPLES, tiny_tokenizer(bos=i == 2), CONFIG, tmp_path)
        for file in tmp_path.glob("*"):
            os.utime(file, (file.stat().st_mtime - 100,) * 2)
    size = max(file.stat().st_size for file in tmp_path.glob("*"))
    oldest = min(tmp_path.glob("*"), key=lambda file: file.stat().st_mtime)
    monkeypatch.setattr(token_cache, "LARGEST", 3 * size)
    config = dataclasses.replace(CONFIG, max_answer=5)
    cached_tokenize(EXAMPLES, tiny_tokenizer(), config, tmp_path)
    assert len(files(tmp_path)) == 3
    assert not oldest.exists()
