"""Records, prompts and batches: what is read, what is cut, what is padded."""

import gzip
import json

import numpy as np
import pytest

from lorajax.data.batching import Shape, Stream, batch_at, pad_prompts
from lorajax.data.jsonl import read_folder
from lorajax.data.prompts import PromptConfig, body, drop_middle, tokenize
from lorajax.data.task import Example, select
from lorajax.errors import LorajaxError
from tests.tiny import tiny_tokenizer

ROW = {"task": "a", "cluster": "nli", "input": "one two", "targets": ["yes", "yeah"]}


def write(folder, name, rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return file


def rows(count, **keys):
    return [ROW | {"input": f"number {i}"} | keys for i in range(count)]


class TestJsonl:
    def test_folders_gzip_splits_and_order(self, tmp_path):
        write(tmp_path, "nli/a.jsonl", [*rows(8, definition="Do it.", options=["yes", "no"]), ""])
        write(tmp_path, "b.jsonl.gz", rows(3, task="b", split="train") + rows(2, task="b", split="test"))
        tasks = read_folder(tmp_path)
        assert list(tasks) == ["b", "a"]
        assert [e.input for e in tasks["a"].test] == ["number 6", "number 7"]
        assert len(tasks["a"].train) == 6
        assert tasks["a"].train[0] == Example("a", "nli", "number 0", ("yes", "yeah"), "Do it.", ("yes", "no"))
        assert (len(tasks["b"].train), len(tasks["b"].test)) == (3, 2)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"task": "a"', r"a\.jsonl:3: not JSON"),
            ("[1]", r"a\.jsonl:3: expected a JSON object, found list"),
            (ROW | {"input": " "}, r"a\.jsonl:3: 'input' must be a non-empty text"),
            ({"task": "a", "input": "x", "targets": ["y"]}, r"a\.jsonl:3: 'cluster' must be"),
            (ROW | {"targets": []}, r"a\.jsonl:3: 'targets' must be a list"),
            (ROW | {"targets": "yes"}, r"a\.jsonl:3: 'targets' must be a list"),
            (ROW | {"options": "yes"}, r"a\.jsonl:3: 'options' must be"),
            (ROW | {"definition": 3}, r"a\.jsonl:3: 'definition' must be"),
            (ROW | {"cluster": "misc"}, r"a\.jsonl:3: task 'a' is in cluster 'misc'; earlier rows say 'nli'"),
        ],
    )
    def test_bad_line_is_named(self, tmp_path, line, message):
        write(tmp_path, "a.jsonl", [*rows(2), line])
        with pytest.raises(LorajaxError, match=message):
            read_folder(tmp_path)

    def test_bad_folders(self, tmp_path):
        with pytest.raises(LorajaxError, match="no such folder; expected 'builtin' or a folder"):
            read_folder(tmp_path / "none")
        with pytest.raises(LorajaxError, match=r"holds no \.jsonl"):
            read_folder(tmp_path)
        write(tmp_path, "empty.jsonl", [])
        with pytest.raises(LorajaxError, match=r"empty\.jsonl: is empty"):
            read_folder(tmp_path)

    def test_task_without_test_rows(self, tmp_path):
        write(tmp_path, "a.jsonl", rows(3, split="train"))
        with pytest.raises(LorajaxError, match="task 'a': has no test rows"):
            read_folder(tmp_path)
        write(tmp_path, "a.jsonl", rows(1))
        with pytest.raises(LorajaxError, match="task 'a': has no train rows"):
            read_folder(tmp_path)

    def test_broken_gzip(self, tmp_path):
        file = write(tmp_path, "a.jsonl.gz", rows(50))
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(LorajaxError, match=r"a\.jsonl\.gz:\d+: could not be read"):
            read_folder(tmp_path)


def test_unknown_task_suggests_the_nearest():
    with pytest.raises(LorajaxError, match=r"unknown task 'capital_citty': did you mean capital_city"):
        select(["capital_city", "arithmetic"], ["capital_citty"])
    with pytest.raises(LorajaxError, match="named twice: a"):
        select(["a"], ["a", "a"])


class TestPrompts:
    example = Example("a", "nli", "one two", ("yes",), "Do it.", ("yes", "no"))

    def test_body(self):
        assert body(self.example) == "Do it.\none two\nOPTIONS:\n- yes\n- no"
        assert body(Example("a", "nli", "one", ("yes",))) == "one"

    @pytest.mark.parametrize(
        ("template", "system", "text"),
        [
            ("plain", "", "Do it.\none two\nOPTIONS:\n- yes\n- no\nAnswer:"),
            ("llama2", "", "<s>[INST] Do it.\none two\nOPTIONS:\n- yes\n- no [/INST]"),
            (
                "llama2",
                "Be kind.",
                "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nDo it.\none two\nOPTIONS:\n- yes\n- no [/INST]",
            ),
            ("chat", "Be kind.", "system: Be kind.\nuser: Do it.\none two\nOPTIONS:\n- yes\n- no\nassistant: "),
        ],
    )
    def test_templates(self, template, system, text):
        tokenizer = tiny_tokenizer(bos=template == "llama2")
        tokens = tokenize([self.example], tokenizer, PromptConfig(template=template, system=system))
        assert tokenizer.decode(tokens.prompts[0]) == text
        assert tokenizer.decode(tokens.answers[0]).strip() == "yes</s>"

    def test_long_prompts_lose_their_middle_and_are_counted(self):
        tokenizer = tiny_tokenizer()
        long = Example("a", "nli", "begin " + "word " * 100 + "end", ("yes " * 30,))
        config = PromptConfig(max_length=40, max_answer=10)
        tokens = tokenize([self.example, long], tokenizer, PromptConfig(max_length=100, max_answer=10))
        assert (tokens.cut_prompts, tokens.cut_answers) == (1, 1)
        tokens = tokenize([long], tokenizer, config)
        text = tokenizer.decode(tokens.prompts[0])
        assert len(tokens.prompts[0]) == 30
        assert len(tokens.answers[0]) == 10
        assert text.startswith("begin")
        assert text.endswith("Answer:")

    def test_drop_middle(self):
        assert drop_middle([1, 2, 3], 3) == [1, 2, 3]
        assert drop_middle(list(range(9)), 5) == [0, 1, 6, 7, 8]
        assert drop_middle(list(range(9)), 1) == [8]

    def test_chat_needs_a_template(self):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = None
        with pytest.raises(LorajaxError, match="--template chat: .* has no chat template"):
            tokenize([self.example], tokenizer, PromptConfig(template="chat"))

    @pytest.mark.parametrize("bad", [{"template": "xml"}, {"max_length": 20, "max_answer": 19}, {"max_answer": 0}])
    def test_bad_settings(self, bad):
        with pytest.raises(LorajaxError, match="--"):
            PromptConfig(**bad)


class TestBatches:
    tokens = tokenize(
        [Example("a", "nli", "word " * (i % 5 + 1), ("yes " * (i % 3 + 1),)) for i in range(10)],
        tiny_tokenizer(),
        PromptConfig(),
    )
    shape = Shape.of([tokens])

    def batch(self, step, names=("a", "b")):
        streams = [Stream(name, [self.tokens], seed=1) for name in names]
        return batch_at(streams, step, batch_size=4, shape=self.shape, pad=0)

    def test_pure_function_of_the_step(self):
        for step in (0, 3, 7, 2):
            for key, value in self.batch(step).items():
                np.testing.assert_array_equal(value, self.batch(step)[key])
                np.testing.assert_array_equal(value[1], self.batch(step, ["b"])[key][0])
        assert not np.array_equal(self.batch(0)["tokens"][0], self.batch(0)["tokens"][1])

    def test_an_epoch_sees_every_example_once(self):
        stream = Stream("a", [self.tokens], seed=0)
        rows = [row for step in range(5) for row in stream.rows(step, 4)]
        for epoch in (rows[:10], rows[10:]):
            seen = sorted(tuple(np.concatenate(row)) for row in epoch)
            assert seen == sorted(
                tuple(np.concatenate(r)) for r in zip(self.tokens.prompts, self.tokens.answers, strict=True)
            )

    def test_labels_are_the_next_tokens_of_answers_alone(self):
        batch = self.batch(1)
        for n in range(2):
            for b in range(4):
                count = int(batch["weights"][n, b].sum())
                positions, labels = batch["positions"][n, b, :count], batch["labels"][n, b, :count]
                np.testing.assert_array_equal(batch["tokens"][n, b, positions + 1], labels)
                assert labels[-1] == tiny_tokenizer().eos_token_id
                assert (np.diff(positions) == 1).all()
        assert self.shape.tokens % 8 == 0

    def test_prompts(self):
        tokens, last = pad_prompts(self.tokens.prompts, length=64, pad=0)
        for row, end, prompt in zip(tokens, last, self.tokens.prompts, strict=True):
            assert row[end] == prompt[-1]
            assert not row[end + 1 :].any()
