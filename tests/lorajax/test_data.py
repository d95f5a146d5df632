"""Records, prompts and batches: what is read, what is cut, what is padded."""

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from lorajax.data.jsonl import read_folder
from lorajax.data.prompts import PromptConfig, body, drop_middle, prompt_ids, tokenize
from lorajax.data.reading import Reading
from lorajax.data.sources import Limits, absolute, open_source
from lorajax.data.task import CLUSTERS, Example, Task, overlap, select, select_tasks
from lorajax.errors import LorajaxError
from tests.tiny import tiny_tokenizer

#: The data pack that lies beside the repository where the project is worked on.
PACK = Path(__file__).parents[3] / "shared" / "data"
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
        assert (len(tasks["a"].train), len(tasks["a"].test)) == (6, 2)
        assert Example("a", "nli", "number 0", ("yes", "yeah"), "Do it.", ("yes", "no")) in tasks["a"].train
        assert (len(tasks["b"].train), len(tasks["b"].test)) == (3, 2)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"task": "a"', r"a\.jsonl:3: not JSON: Expecting ',' delimiter at column 13"),
            ("[1]", r"a\.jsonl:3: expected a JSON object, found list"),
            (ROW | {"input": " "}, r"a\.jsonl:3: 'input' must be a non-empty text"),
            ({"task": "a", "input": "x", "targets": ["y"]}, r"a\.jsonl:3: 'cluster' must be"),
            (ROW | {"targets": []}, r"a\.jsonl:3: 'targets' must be a list"),
            (ROW | {"targets": "yes"}, r"a\.jsonl:3: 'targets' must be a list"),
            (ROW | {"options": "yes"}, r"a\.jsonl:3: 'options' must be"),
            (ROW | {"definition": 3}, r"a\.jsonl:3: 'definition' must be"),
            ('{"task": ' + "9" * 5000 + "}", r"a\.jsonl:3: not JSON"),
            ("[" * 100_000, r"a\.jsonl:3: not JSON"),
            (ROW | {"split": "held out"}, r"a\.jsonl:3: 'split' must be one of train, .*, found 'held out'"),
            (ROW | {"split": 1}, r"a\.jsonl:3: 'split' must be one of .*, found 1"),
            (ROW | {"split": "test"}, r"a\.jsonl:1: its 'split' does not say train or test, but other rows of task"),
            (ROW | {"input": "x \ud83d"}, r"a\.jsonl:3: 'input' holds '\\ud83d', half of a character"),
            (ROW | {"definition": "\ude00"}, r"a\.jsonl:3: 'definition' holds '\\ude00'"),
            (ROW | {"targets": ["yes", "\ud83d"]}, r"a\.jsonl:3: 'targets' holds"),
            (ROW | {"options": ["yes", "\ud83d"]}, r"a\.jsonl:3: 'options' holds"),
            (ROW | {"task": "../x"}, r"a\.jsonl:3: task '\.\./x': this name cannot be used; expected printable"),
            (ROW | {"task": "a\\b"}, r"a\.jsonl:3: task .*: this name"),
            (ROW | {"task": ".x"}, r"a\.jsonl:3: task '\.x': this name"),
            (ROW | {"task": "a\nb"}, r"a\.jsonl:3: task 'a\\nb': this name"),
            (ROW | {"task": "\ud83d"}, r"a\.jsonl:3: task '\\ud83d': this name"),
            (ROW | {"task": "ü" * 51}, r"a\.jsonl:3: task 'ü*': this name"),
            (ROW | {"cluster": "nli/mnli"}, r"a\.jsonl:3: cluster 'nli/mnli': this name"),
            (ROW | {"cluster": "misc"}, r"a\.jsonl:3: task 'a' is in cluster 'misc'; earlier rows say 'nli'"),
        ],
    )
    def test_bad_line_is_named(self, tmp_path, line, message):
        write(tmp_path, "a.jsonl", [*rows(2), line])
        with pytest.raises(LorajaxError, match=message):
            read_folder(tmp_path)

    def test_bad_folders(self, tmp_path):
        with pytest.raises(LorajaxError, match="no such folder; expected 'builtin', a folder"):
            read_folder(tmp_path / "none")
        with pytest.raises(LorajaxError, match=r"holds no \.jsonl"):
            read_folder(tmp_path)
        write(tmp_path, "empty.jsonl", [])
        with pytest.raises(LorajaxError, match=r"empty\.jsonl: is empty"):
            read_folder(tmp_path)
        (tmp_path / "a.csv").write_text("task,input")
        with pytest.raises(LorajaxError, match=r"a\.csv': a file of another kind; expected .* or one \.jsonl file"):
            read_folder(tmp_path / "a.csv")

    @pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
    def test_one_file(self, tmp_path, name):
        write(tmp_path, "b.jsonl", ["{"])
        assert len(read_folder(write(tmp_path, name, rows(10)))["a"].train) == 8

    def test_hidden_names_are_passed_over(self, tmp_path):
        folder = tmp_path / ".cache" / "data"
        write(folder, "a.jsonl", rows(5))
        write(folder, ".ipynb_checkpoints/a-checkpoint.jsonl", rows(5))
        write(folder, ".a.jsonl.swp.jsonl", ["{"])
        task = read_folder(folder)["a"]
        assert len(task.train) + len(task.test) == 5

    def test_split_names(self, tmp_path):
        splits = ["Train", "TRAINING", "Test", "dev", "Val", "valid", "Validation"]
        write(tmp_path, "a.jsonl", [ROW | {"input": s, "split": s} for s in splits])
        task = read_folder(tmp_path)["a"]
        assert sorted(e.input for e in task.train) == ["TRAINING", "Train"]
        assert [e.input for e in task.test] == ["Test"]
        write(tmp_path, "a.jsonl", [ROW | {"input": s, "split": s} for s in splits if s != "Test"])
        assert sorted(e.input for e in read_folder(tmp_path)["a"].test) == ["Val", "Validation", "dev", "valid"]
        write(tmp_path, "a.jsonl", rows(10, split="dev/test"))
        assert len(read_folder(tmp_path)["a"].test) == 2

    @pytest.mark.parametrize("named", [False, True])
    def test_order_of_the_file_does_not_matter(self, tmp_path, named):
        records = [ROW | {"input": f"number {i}", "targets": ["yes" if i < 60 else "no"]} for i in range(100)]
        if named:
            records = [row | {"split": "test" if i % 5 == 0 else "train"} for i, row in enumerate(records)]
        write(tmp_path, "a.jsonl", records)
        task = read_folder(tmp_path)["a"]
        assert len(task.train) + len(task.test) == 100
        assert 10 <= len(task.test) <= 40
        for examples in (task.train, task.train[:16], task.test, task.test[:16]):
            assert 0.3 < sum(e.targets == ("yes",) for e in examples) / len(examples) < 0.9
        write(tmp_path, "a.jsonl", records[::-1])
        assert read_folder(tmp_path)["a"] == task

    def test_tasks_that_share_some_inputs_are_split_alike(self, tmp_path):
        """E is trained on all tasks: what one is tested on must not be what another is trained on."""
        records = [
            ROW | {"task": t, "input": f"number {i}"} for t, n in (("a", 0), ("b", 100)) for i in range(n, n + 200)
        ]
        write(tmp_path, "a.jsonl", records)
        tasks = read_folder(tmp_path)
        trained = {e.input for task in tasks.values() for e in task.train}
        assert not any(e.input in trained for task in tasks.values() for e in task.test)
        for task in tasks.values():
            assert 20 <= len(task.test) <= 80  # about 40

    def test_only_the_tasks_asked_for_are_made(self, tmp_path):
        write(tmp_path, "a.jsonl", [*rows(10), ROW | {"task": "b", "split": "dev"}])
        source = open_source(str(tmp_path))
        assert source.clusters(Reading()) == {"a": "nli", "b": "nli"}
        assert list(source.read(["a"], Limits(5, 5), Reading())) == ["a"]
        with pytest.raises(LorajaxError, match="task 'b': has no train rows"):
            source.read(["b"], Limits(5, 5), Reading())

    def test_dev_rows_are_told_of(self, tmp_path):
        write(
            tmp_path,
            "a.jsonl",
            [ROW | {"input": f"{s} {i}", "split": s} for s in ("train", "dev", "test") for i in range(9)],
        )
        reading = Reading()
        read_folder(tmp_path, reading=reading)
        assert reading.report() == ["task a: of 27 rows read, 9 are dev rows: left out"]

    def test_equal_inputs_are_on_one_side_in_every_task(self, tmp_path):
        records = [ROW | {"input": f"number {i % 10}", "targets": [str(i)]} for i in range(30)]
        write(tmp_path, "a.jsonl", records + [row | {"task": "b"} for row in records[:10]])
        tasks = read_folder(tmp_path)
        train, test = ({e.input for e in side} for side in (tasks["a"].train, tasks["a"].test))
        assert (len(train), len(test), overlap(tasks["a"])) == (8, 2, 0)
        assert {e.input for e in tasks["b"].test} == test

    @pytest.mark.parametrize(("count", "share", "sides"), [(2, 0.2, (1, 1)), (2, 0.9, (1, 1)), (5, 0.2, (4, 1))])
    def test_neither_side_is_empty(self, tmp_path, count, share, sides):
        write(tmp_path, "a.jsonl", rows(count))
        task = read_folder(tmp_path, test_share=share)["a"]
        assert (len(task.train), len(task.test)) == sides

    def test_rows_of_one_document_are_on_one_side(self, tmp_path):
        records = [ROW | {"input": f"number {i}", "doc": f"d{i // 5}"} for i in range(50)]
        write(tmp_path, "a.jsonl", records + [row | {"task": "b"} for row in records])
        tasks = read_folder(tmp_path)
        document = {row["input"]: row["doc"] for row in records}
        train, test = ({document[e.input] for e in side} for side in (tasks["a"].train, tasks["a"].test))
        assert (len(train), len(test), train & test) == (8, 2, set())
        assert {document[e.input] for e in tasks["b"].test} == test
        write(tmp_path, "a.jsonl", [ROW | {"doc": "d"}, ROW | {"input": "x", "doc": "d"}])
        with pytest.raises(LorajaxError, match=r"has no train rows \(of 2 rows, 1 different groups\)"):
            read_folder(tmp_path)
        write(tmp_path, "a.jsonl", [ROW | {"doc": 3}])
        with pytest.raises(LorajaxError, match=r"a\.jsonl:1: 'doc' must be a text, found 3"):
            read_folder(tmp_path)

    def test_some_bad_rows_may_be_passed_over(self, tmp_path):
        write(tmp_path, "a.jsonl", [*rows(5), "{", ROW | {"targets": []}, ROW | {"cluster": "misc"}])
        reading = Reading(skip_bad_rows=3)
        task = read_folder(tmp_path, reading=reading)["a"]
        assert len(task.train) + len(task.test) == 5
        told = reading.report()
        assert [line.split("a.jsonl:")[1][0] for line in told] == ["6", "7", "8"]
        with pytest.raises(LorajaxError, match=r"a\.jsonl:8: .*\(after 2 bad rows that --skip-bad-rows allowed\)"):
            read_folder(tmp_path, reading=Reading(skip_bad_rows=2))

    def test_a_byte_that_is_no_text_has_its_line(self, tmp_path):
        file = write(tmp_path, "a.jsonl", rows(40))
        file.write_bytes(file.read_bytes() + b'{"task": "\xe4"}\n')
        with pytest.raises(LorajaxError, match=r"a\.jsonl:41: not UTF-8: byte 0xe4 at place 11"):
            read_folder(tmp_path)

    def test_overlap(self):
        x, y, z = (Example("a", "nli", text, ("yes",), "Do it.") for text in "xyz")
        test = (dataclasses.replace(x, targets=("no",)), dataclasses.replace(y, definition=None), y, z)
        assert overlap(Task("a", "nli", (x, y), test)) == 2

    def test_task_without_test_rows(self, tmp_path):
        write(tmp_path, "a.jsonl", rows(3, split="train"))
        with pytest.raises(LorajaxError, match="task 'a': has no test rows"):
            read_folder(tmp_path)
        write(tmp_path, "a.jsonl", rows(3, split="dev"))
        with pytest.raises(LorajaxError, match="task 'a': has no train rows"):
            read_folder(tmp_path)
        write(tmp_path, "a.jsonl", [ROW] * 3)
        with pytest.raises(LorajaxError, match=r"has no train rows \(of 3 rows, 1 different inputs\)"):
            read_folder(tmp_path)

    def test_broken_gzip(self, tmp_path):
        file = write(tmp_path, "a.jsonl.gz", rows(50))
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(LorajaxError, match=r"a\.jsonl\.gz:\d+: could not be read"):
            read_folder(tmp_path)
        write(tmp_path, "a.jsonl.gz", rows(50))
        damaged = bytearray(file.read_bytes())
        damaged[10:40] = b"\xff" * 30
        file.write_bytes(damaged)
        with pytest.raises(LorajaxError, match=r"a\.jsonl\.gz:\d+: could not be read"):
            read_folder(tmp_path)


class TestSources:
    def test_jsonl_and_builtin(self, tmp_path):
        write(tmp_path, "a.jsonl", rows(10) + rows(10, task="b", cluster="misc"))
        source = open_source(str(tmp_path))
        assert source.clusters(Reading()) == {"a": "nli", "b": "misc"}
        assert list(source.read(["b"], Limits(5, 5), Reading())) == ["b"]
        source = open_source("builtin")
        assert set(source.clusters(Reading()).values()) == set(CLUSTERS)
        task = source.read(["arithmetic"], Limits(5, 4), Reading())["arithmetic"]
        assert (len(task.train), len(task.test)) == (5, 4)

    def test_a_folder_may_have_a_source_s_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "builtin", "a.jsonl", rows(10))
        assert open_source("builtin").clusters(Reading()) == {"a": "nli"}
        assert absolute("builtin") == str(tmp_path / "builtin")
        assert absolute("conll2012:builtin") == f"conll2012:{tmp_path / 'builtin'}"
        assert absolute("flan2021") == "flan2021"

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("ni", "--data ni: expected ni:FOLDER"),
            ("ni:", "--data ni:: expected ni:FOLDER"),
            ("mapped", "--data mapped: expected mapped:FILE"),
            ("builtin:x", "--data builtin:x: expected builtin"),
            ("flan2021:", "expected flan2021"),
        ],
    )
    def test_bad_specs(self, spec, message):
        with pytest.raises(LorajaxError, match=message):
            open_source(spec)

    def test_tasks_by_glob_and_cluster(self):
        clusters = {"wmt_de": "translation", "wmt_fr": "translation", "rte": "nli", "a[1]": "nli"}
        assert select_tasks(clusters, (), ()) == list(clusters)
        assert select_tasks(clusters, ("wmt*",), ()) == ["wmt_de", "wmt_fr"]
        assert select_tasks(clusters, ("rte", "*_de", "wmt*"), ()) == ["rte", "wmt_de", "wmt_fr"]
        assert select_tasks(clusters, ("a[1]",), ()) == ["a[1]"]
        assert select_tasks(clusters, (), ("n*",)) == ["rte", "a[1]"]
        assert select_tasks(clusters, ("*e",), ("nli",)) == ["rte"]
        with pytest.raises(LorajaxError, match="unknown cluster 'nly': did you mean nli"):
            select_tasks(clusters, (), ("nly",))
        with pytest.raises(LorajaxError, match="no task of rte is in cluster translation"):
            select_tasks(clusters, ("rte",), ("translation",))


LINGUISTIC = {"semantic", "counting", "ner", "sentences", "pos", "coreference", "summary"}


@pytest.mark.skipif(not PACK.is_dir(), reason=f"needs the project's data pack at {PACK}")
@pytest.mark.parametrize(("name", "clusters"), [("tasks", set(CLUSTERS)), ("linguistic", LINGUISTIC)])
def test_the_real_records(name, clusters):
    """What the manifest counts is what is read; tasks on the same passages are tested on the same ones."""
    manifest = json.loads((PACK / name / "manifest.json").read_text())
    tasks = read_folder(PACK / name)
    assert (len(tasks), sum(item["rows"] for item in manifest["items"])) == (manifest["tasks"], manifest["rows"])
    assert {task.cluster for task in tasks.values()} == clusters
    for item in manifest["items"]:
        task, splits = tasks[item["task"]], item.get("splits", {})
        assert task.cluster == item["cluster"]
        assert len(task.train) + len(task.test) == item["rows"] - splits.get("dev", 0)
        assert splits.get("test", len(task.test)) == len(task.test)
        assert 0.1 * item["rows"] <= len(task.test) <= 0.4 * item["rows"]  # about a fifth
        assert not {e.input for e in task.train} & {e.input for e in task.test}
    for prefix in ("ewt_", "gum_", "gumdoc_"):
        assert len({frozenset(e.input for e in t.test) for k, t in tasks.items() if k.startswith(prefix)}) < 2


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

    def test_the_cut_does_not_tell_the_answer(self):
        tokenizer, config = tiny_tokenizer(), PromptConfig(max_length=60, max_answer=20)
        prompts = [
            tokenize([Example("a", "nli", "word " * 50, (answer,))], tokenizer, config).prompts[0]
            for answer in ("a", "a long answer")
        ]
        np.testing.assert_array_equal(*prompts)

    @pytest.mark.parametrize("bos", [True, False])
    def test_bos_of_a_saved_tokenizer(self, bos, tmp_path):
        """What the tokenizer does counts, not its attributes: transformers does not keep those."""
        from lorajax.models.tokenizer import load_tokenizer

        tiny_tokenizer(bos=bos).save_pretrained(tmp_path)
        tokens = tokenize([self.example], load_tokenizer(tmp_path), PromptConfig())
        assert (tokens.prompts[0][0] == 1) == bos
        assert list(tokens.prompts[0]).count(1) == bos
        assert 1 not in tokens.answers[0]

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


def test_a_chat_template_that_writes_the_day_gives_the_same_prompt_tomorrow():
    tokenizer = tiny_tokenizer()
    day = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}"
    tokenizer.chat_template = day + tokenizer.chat_template
    example = Example("a", "nli", "one", ("two",))
    ids = prompt_ids(example, tokenizer, PromptConfig(template="chat"))
    assert tokenizer.decode(ids) == "26 Jul 2024user: one\nassistant: "
