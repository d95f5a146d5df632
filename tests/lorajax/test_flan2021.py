"""FLAN 2021: the table, and files of the two public forms, written here as small ones."""

import collections
import gzip
import hashlib
import itertools
import json

import pytest

from lorajax.data.flan2021 import TABLE, TASKS, TRAIN_CAP, open_source, spread
from lorajax.data.flan2021.arrays import read_array
from lorajax.data.flan2021.files import REPOSITORY, REVISION
from lorajax.data.prompts import body
from lorajax.data.reading import Reading
from lorajax.data.sources import Limits, absolute
from lorajax.data.sources import open_source as open_any
from lorajax.data.task import CLUSTERS, Example, select_tasks
from lorajax.errors import LorajaxError

LIMITS = Limits(train=20, test=6)
ABSENT = {"newsroom", "winogrande", "xsum"}


def public_row(task, number, **keys):
    return {"inputs": f"{task} question {number}?", "targets": f"answer {number}", "task": f"{task}_10templates"} | keys


def public(folder, task, *, train=50, test=20, split=None, lines=None):
    """Files of one task as in the public data set, or one file with the given rows and lines."""
    for side, count in (("train", train), ("test", test)):
        if split in (None, side):
            rows = [public_row(task, f"{side} {i}") for i in range(count)] if lines is None else lines
            text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
            file = folder / side / f"{task}_10templates_{side}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
    return folder


def factory_rows(task, side, count):
    return [{"instruction": f"{task} {side} {i}?", "input": "", "output": f"answer {side} {i}"} for i in range(count)]


def factory(folder, tasks, *, indent=None, lines=False, content=None):
    """A folder in LLaMA-Factory's form. `content` replaces the rows of the first task's train file, as text."""
    info = {}
    for name, side in itertools.product(tasks, ("train", "validation", "test")):
        rows = factory_rows(name, side, 30)
        text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows, indent=indent)
        if content is not None and (name, side) == (tasks[0], "train"):
            text = content
        file = folder / "flan_v1" / f"{name}_{side}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
        sha1 = hashlib.sha1(text.encode()).hexdigest()
        info[f"{name}_{side}"] = {"file_name": f"flan_v1/{file.name}", "file_sha1": sha1}
    return with_info(folder, info)


def with_info(folder, info):
    folder.mkdir(exist_ok=True)
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def read(folder, *names, limits=LIMITS, reading=None):
    return open_source(str(folder)).read(names, limits, reading or Reading())


class TestTable:
    def test_tasks_of_the_code(self):
        """As google-research/FLAN counts them, by its own 17 clusters."""
        assert len(TABLE) == len(TASKS) == 69
        code = {"summarization": 11, "structure_to_text": 4, "reading_comprehension": 6, "open_domain_qa": 4}
        code |= {"paraphrase": 4, "sentiment": 4, "text_formatting": 3, "common_sense": 4, "translation": 8}
        code |= {"coreference": 3, "entailment": 10, "math": 1, "conversational_qa": 2, "word_disambiguation": 1}
        code |= {"linguistic_acceptability": 1, "question_classification": 1, "read_comp_and_common_sense": 2}
        assert (len(code), sum(code.values())) == (17, 69)
        ours = {"structure_to_text": "struct_to_text", "open_domain_qa": "closed_book_qa", "entailment": "nli"}
        ours |= {"common_sense": "commonsense", "read_comp_and_common_sense": "rc_commonsense"}
        expected: collections.Counter[str] = collections.Counter()
        for name, count in code.items():
            name = ours.get(name, name)
            expected[name if name in CLUSTERS else "misc"] += count
        assert collections.Counter(task.cluster for task in TABLE) == expected

    def test_data_sets_of_the_paper(self):
        datasets = collections.defaultdict(set)
        for task in TABLE:
            if task.paper:
                datasets[task.cluster].add(task.dataset)
        expected = dict(zip(CLUSTERS, (7, 4, 4, 4, 3, 4, 5, 2, 3, 7, 11, 8), strict=True))
        assert {cluster: len(names) for cluster, names in datasets.items()} == expected
        assert sum(expected.values()) == 62
        assert {task.name for task in TABLE if not task.paper} == {"true_case", "word_segment"}
        merged = {name: n for name, n in collections.Counter(t.dataset for t in TABLE).items() if n > 1}
        assert merged == {"anli": 3, "mnli": 2, "arc": 2, "squad": 2}

    def test_order_and_absent_ones(self):
        places = [CLUSTERS.index(task.cluster) for task in TABLE]
        assert places == sorted(places)
        assert {task.name for task in TABLE if task.absent} == ABSENT


class TestPublicFolder:
    def test_tasks_that_are_there(self, tmp_path):
        for name in ("xsum", "rte", "anli_r1"):
            public(tmp_path, name)
        public(tmp_path, "my_own", split="train")
        (tmp_path / "validation").mkdir()
        (tmp_path / "validation" / "cola_10templates_validation.jsonl").write_text("{")
        # Bytes that cannot be read: the table is all that is needed to list the tasks.
        (tmp_path / "test" / "cola_10templates_test.jsonl").write_bytes(b"\xff")
        told = []
        clusters = open_source(str(tmp_path)).clusters(Reading(say=told.append))
        assert list(clusters) == ["anli_r1", "rte", "cola", "xsum"]
        assert list(clusters.values()) == ["nli", "nli", "misc", "summarization"]
        assert any("left out, since no tasks of FLAN 2021: train/my_own_10templates_train.jsonl" in t for t in told)
        assert any("no files of 65 of the 69 tasks" in t for t in told)
        assert select_tasks(clusters, ["*r*"], ["nli"]) == ["anli_r1", "rte"]

    def test_rows(self, tmp_path):
        task = read(public(tmp_path, "rte"), "rte")["rte"]
        assert (task.name, task.cluster, len(task.train)) == ("rte", "nli", 20)
        assert task.test[0] == Example("rte", "nli", "rte question test 0?", ("answer test 0",))
        assert body(task.test[0]) == "rte question test 0?"
        assert all(e.input.startswith("rte question train") for e in task.train)

    def test_test_rows_are_the_first_ones_and_no_more_is_read(self, tmp_path):
        public(tmp_path, "rte")
        public(tmp_path, "rte", split="test", lines=[*[public_row("rte", i) for i in range(6)], "{"])
        reading = Reading()
        task = read(tmp_path, "rte", reading=reading)["rte"]
        assert [e.input for e in task.test] == [f"rte question {i}?" for i in range(6)]
        assert reading.read["rte"] == 50 + 6
        with pytest.raises(LorajaxError, match=r"rte_10templates_test\.jsonl:7: not JSON"):
            read(tmp_path, "rte", limits=Limits(20, 7))

    def test_train_rows_do_not_depend_on_the_order_of_the_file(self, tmp_path):
        rows = [public_row("sst2", i, targets="good" if i < 500 else "bad") for i in range(1000)]
        public(tmp_path, "sst2", test=6)
        train = {}
        for key, order in (("sorted", rows), ("reversed", rows[::-1])):
            public(tmp_path, "sst2", split="train", lines=order)
            train[key] = read(tmp_path, "sst2", limits=Limits(200, 6))["sst2"].train
        assert train["sorted"] == train["reversed"]
        good = sum(e.targets == ("good",) for e in train["sorted"])
        assert 70 < good < 130  # 100 expected, standard deviation 6.3: sampling 200 of 1000 without replacement
        fewer = read(tmp_path, "sst2", limits=Limits(50, 6))["sst2"].train
        assert fewer == train["sorted"][:50]
        every = read(tmp_path, "sst2", limits=Limits(2000, 6))["sst2"].train
        assert sorted(e.input for e in every) == sorted(row["inputs"] for row in rows)

    def test_rows_with_one_prompt_are_chosen_one_by_one(self):
        """A constant template's rows have equal prompts; they must not be taken or left all together."""
        examples = [Example("a", "nli", "Write a question.", (str(i),)) for i in range(400)]
        kept, left = spread(iter(examples), 100)
        assert (len(kept), left) == (100, 300)
        assert len({e.targets for e in kept}) == 100

    def test_memory_is_bounded(self):
        alive, most = [0], [0]

        class Counted(Example):
            def __del__(self):
                alive[0] -= 1

        def examples():
            for i in range(2000):
                alive[0] += 1
                most[0] = max(most[0], alive[0])
                yield Counted("a", "nli", str(i), ("x",))

        assert len(spread(examples(), 10)[0]) == 10
        assert most[0] <= 13  # those kept, and the ones that a frame is holding

    def test_no_more_than_flan_trains_on(self, tmp_path):
        public(tmp_path, "rte", train=TRAIN_CAP + 7, test=6)
        reading = Reading()
        assert len(read(tmp_path, "rte", limits=Limits(10**6, 6), reading=reading)["rte"].train) == TRAIN_CAP
        assert reading.report() == [
            "task rte: of 30013 rows read, 7 exceed the 30,000 that FLAN trains on: left out",
        ]

    def test_only_the_files_asked_for_are_opened(self, tmp_path):
        public(public(tmp_path, "rte"), "cola", lines=["{"])
        source = open_source(str(tmp_path))
        assert set(source.clusters(Reading())) == {"rte", "cola"}
        assert list(source.read(["rte"], LIMITS, Reading())) == ["rte"]
        with pytest.raises(LorajaxError, match="cola_10templates_train.jsonl:1: not JSON"):
            source.read(["rte", "cola"], LIMITS, Reading())

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"inputs": "a"', r"rte_10templates_train\.jsonl:3: not JSON"),
            ("[]", "train.jsonl:3: expected a JSON object, found list"),
            ({"prompt": "a", "targets": "b", "task": "rte"}, "3: 'inputs' must be a text, found the keys prompt, "),
            ({"inputs": "a", "target": "b", "task": "rte"}, "3: 'targets' must be a text, found the keys inputs, t"),
            ({"inputs": "a", "targets": "b"}, "3: 'task' must be a text, found the keys inputs, targets"),
            ({}, r"3: 'task' must be a text, found the keys \(none\)"),
            (public_row("rte", 1, targets=["b"]), r"3: 'targets' must be a text, found \['b'\]"),
            (public_row("rte", 1, inputs=None), "3: 'inputs' must be a text, found None"),
            (public_row("rte", 1, inputs="a \ud83d"), r"3: 'inputs' holds '\\ud83d', half of a character"),
            (
                public_row("cola", 1),
                "3: 'task' must be 'rte_10templates', as the file's name says; found 'cola_10templates'",
            ),
        ],
    )
    def test_bad_rows(self, tmp_path, line, message):
        public(tmp_path, "rte")
        public(
            tmp_path, "rte", split="train", lines=[public_row("rte", 1), public_row("rte", 2) | {"task": "rte"}, line]
        )
        with pytest.raises(LorajaxError, match=message):
            read(tmp_path, "rte")
        reading = Reading(skip_bad_rows=1)
        assert len(read(tmp_path, "rte", reading=reading)["rte"].train) == 2
        assert len(reading.bad_rows) == 1

    def test_empty_prompts_and_answers_are_left_out_and_told(self, tmp_path):
        lines = [public_row("rte", 1), public_row("rte", 2, inputs=""), public_row("rte", 3, targets=" \n")]
        reading = Reading()
        task = read(public(tmp_path, "rte", lines=lines), "rte", reading=reading)["rte"]
        assert [e.input for e in task.test] == ["rte question 1?"]
        assert reading.report() == ["task rte: of 6 rows read, 4 have an empty prompt or answer: left out"]

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_a_side_without_rows(self, tmp_path, split):
        public(public(tmp_path, "rte"), "rte", split=split, lines=[])
        with pytest.raises(LorajaxError, match=f"rte_10templates_{split}.jsonl: is empty; expected {split} rows of"):
            read(tmp_path, "rte")
        public(tmp_path, "rte", split=split, lines=[public_row("rte", 1, targets="")] * 3)
        with pytest.raises(LorajaxError, match=f"_{split}.jsonl: none of its 3 rows can be used; expected {split}"):
            read(tmp_path, "rte")

    def test_files_that_cannot_be_read(self, tmp_path):
        file = public(tmp_path, "rte") / "train" / "rte_10templates_train.jsonl"
        whole = file.read_bytes()
        file.write_bytes(whole[:-30])
        with pytest.raises(LorajaxError, match="train.jsonl:50: not JSON"):
            read(tmp_path, "rte")
        file.write_bytes(whole.replace(b"question train 9?", "é".encode("latin-1")))
        with pytest.raises(LorajaxError, match=r"train.jsonl:10: not UTF-8: byte 0xe9"):
            read(tmp_path, "rte")
        file.write_bytes(gzip.compress(whole))  # not one of the public forms
        with pytest.raises(LorajaxError, match="train.jsonl:1: not UTF-8"):
            read(tmp_path, "rte")

    @pytest.mark.parametrize(
        ("name", "why"),
        [("cola", "$"), ("xsum", r" \(the public files are without this task: its source has to be downloaded")],
    )
    def test_missing_files_are_named(self, tmp_path, name, why):
        source = open_source(str(public(tmp_path, "rte")))
        with pytest.raises(LorajaxError, match=rf"no file \S*train/{name}_10templates_train.jsonl{why}"):
            source.read(["rte", name], LIMITS, Reading())
        public(tmp_path, name, split="train")
        with pytest.raises(LorajaxError, match=rf"no file \S*test/{name}_10templates_test.jsonl{why}"):
            source.require([name])
        source.require(["rte", "r*", "unheard_of"])
        with pytest.raises(LorajaxError, match="unknown task 'rtee': did you mean rte"):
            source.read(["rtee"], LIMITS, Reading())

    def test_folders_that_are_none(self, tmp_path):
        with pytest.raises(LorajaxError, match="--data flan2021:.*/no: no such folder; expected a folder with files"):
            open_source(str(tmp_path / "no"))
        with pytest.raises(LorajaxError, match=r"holds no file of FLAN 2021; expected files such as train/rte_10"):
            open_source(str(tmp_path)).clusters(Reading())
        with_info(tmp_path, {})
        (tmp_path / "flan_v1").mkdir()
        with pytest.raises(LorajaxError, match=r"the dataset_info.json of LLaMA-Factory \(there is one in "):
            open_source(str(tmp_path / "flan_v1")).clusters(Reading())
        with pytest.raises(LorajaxError, match="info.json: a file; expected a folder"):
            open_source(str(tmp_path / "dataset_info.json"))


class TestHub:
    """The hub's own client, without a network: it takes from its cache what is there, and else says why it cannot."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        return tmp_path / f"datasets--{REPOSITORY.replace('/', '--')}" / "snapshots" / REVISION

    def test_all_but_three(self):
        told = []
        clusters = open_any("flan2021").clusters(Reading(say=told.append))
        assert set(clusters) == set(TASKS) - ABSENT
        assert len(clusters) == 66
        assert told == [
            "flan2021: there are no files of 3 of the 69 tasks: winogrande (its source did not work when they were "
            "made), newsroom (its source has to be downloaded by hand), xsum (its source has to be downloaded by hand)"
        ]

    def test_only_what_is_asked_for_is_fetched(self, cache):
        public(cache, "rte")
        told = []
        tasks = open_any("flan2021").read(["rte"], LIMITS, Reading(say=told.append))
        assert (len(tasks["rte"].train), len(tasks["rte"].test)) == LIMITS
        assert told == [
            f"task rte: {split}/rte_10templates_{split}.jsonl of data set Muennighoff/flan"
            for split in ("train", "test")
        ]

    def test_failure_says_how_to_do_without(self, cache):
        with pytest.raises(
            LorajaxError,
            match=r"the hub did not give train/cola_10templates_train.jsonl of data set Muennighoff/flan: .*"
            r"--data flan2021:FOLDER, with FOLDER/train/cola_10templates_train.jsonl\)$",
        ) as caught:
            open_any("flan2021").read(["cola"], LIMITS, Reading())
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", sorted(ABSENT))
    def test_the_three(self, name):
        message = f"Muennighoff/flan has no train/{name}_10templates_train.jsonl: its source .*--data flan2021:FOLDER"
        with pytest.raises(LorajaxError, match=message):
            open_any("flan2021").read([name], LIMITS, Reading())


class TestFactory:
    @pytest.mark.parametrize("form", [{}, {"indent": 4}, {"lines": True}])
    def test_rows(self, tmp_path, form):
        factory(tmp_path, ["rte", "xsum"], **form)
        source = open_any(f"flan2021:{tmp_path}")
        assert source.clusters(Reading()) == {"rte": "nli", "xsum": "summarization"}
        reading = Reading()
        tasks = source.read(["xsum", "rte"], LIMITS, reading)
        assert [e.input for e in tasks["xsum"].test] == [f"xsum test {i}?" for i in range(6)]
        assert tasks["rte"].test[0] == Example("rte", "nli", "rte test 0?", ("answer test 0",))
        assert len(tasks["rte"].train) == 20
        assert reading.read["rte"] == 30 + 6
        assert absolute(f"flan2021:{tmp_path}") == f"flan2021:{tmp_path}"

    def test_both_forms_give_the_same_examples(self, tmp_path):
        public(tmp_path / "a", "rte")
        for split in ("train", "test"):
            lines = [
                {"inputs": row["instruction"], "targets": row["output"], "task": "rte_10templates"}
                for row in factory_rows("rte", split, 30)
            ]
            public(tmp_path / "a", "rte", split=split, lines=lines)
        assert read(tmp_path / "a", "rte") == read(factory(tmp_path / "b", ["rte"]), "rte")

    def test_instruction_and_input(self, tmp_path):
        """LLaMA-Factory joins the two by a line break; so does `body`."""
        row = {"instruction": "Is it so?", "input": "It is.", "output": "yes", "history": [], "system": ""}
        rows = [row, {"instruction": "Say.", "output": "no"}]
        task = read(factory(tmp_path, ["rte"], content=json.dumps(rows)), "rte")["rte"]
        assert sorted(body(e) for e in task.train) == ["Is it so?\nIt is.", "Say."]
        assert sorted(e.definition or "" for e in task.train) == ["", "Is it so?"]

    def test_mixtures_and_others_are_left_out_and_told(self, tmp_path):
        factory(tmp_path, ["rte"])
        info = json.loads((tmp_path / "dataset_info.json").read_text())
        for name in ("all_tasks_sample_30k", "all_tasks_sample_50k", "alpaca_en"):
            info[name] = {"file_name": f"flan_v1/{name}.json", "file_sha1": "0"}
        info["cola_train"] = {"file_name": "flan_v1/cola_train.json", "file_sha1": "0"}
        with_info(tmp_path, info)
        told = []
        source = open_source(str(tmp_path))
        assert source.clusters(Reading(say=told.append)) == {"rte": "nli"}
        assert any(
            "left out, since mixtures of all tasks: all_tasks_sample_30k, all_tasks_sample_50k" in t for t in told
        )
        assert any("left out, since no tasks of FLAN 2021: alpaca_en" in t for t in told)
        with pytest.raises(
            LorajaxError, match=r"'cola': there is no file \S*cola_train.json, which \S*_info.json names"
        ):
            source.read(["cola"], LIMITS, Reading())
        with pytest.raises(LorajaxError, match=r"'snli': \S*dataset_info.json has no entry 'snli_train'"):
            source.require(["snli"])

    def test_sums(self, tmp_path):
        factory(tmp_path, ["rte"])
        file = tmp_path / "flan_v1" / "rte_train.json"
        stated = hashlib.sha1(file.read_bytes()).hexdigest()
        file.write_bytes(file.read_bytes() + b"\n")
        found = hashlib.sha1(file.read_bytes()).hexdigest()
        with pytest.raises(LorajaxError, match=f"rte_train.json: its SHA-1 sum is {found}; expected {stated}, which"):
            read(tmp_path, "rte")
        info = json.loads((tmp_path / "dataset_info.json").read_text())
        del info["rte_train"]["file_sha1"]
        with_info(tmp_path, info)
        told = []
        assert len(read(tmp_path, "rte", reading=Reading(say=told.append))["rte"].train) == 20
        assert [t for t in told if "rte_train.json: not checked, since" in t]

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ({"file_name": "../rte_train.json"}, r"the path '\.\./rte_train.json' leaves its folder"),
            ({"file_name": "/etc/passwd"}, "the path '/etc/passwd' leaves its folder"),
            ({"hf_hub_url": "a/b"}, "entry 'rte_train': expected a 'file_name', found {'hf_hub_url'"),
            ("rte.json", "entry 'rte_train': expected a 'file_name', found 'rte.json'"),
            ({"file_name": "rte.json", "columns": {}}, "expected no more than 'file_name' and .*, found 'columns'"),
        ],
    )
    def test_entries(self, tmp_path, entry, message):
        info = json.loads((factory(tmp_path, ["rte"]) / "dataset_info.json").read_text())
        with_info(tmp_path, info | {"rte_train": entry})
        with pytest.raises(LorajaxError, match=message):
            open_source(str(tmp_path)).clusters(Reading())

    @pytest.mark.parametrize(
        ("text", "found"), [("{", "could not be read"), ("[]", "expected a JSON object of entries")]
    )
    def test_info_that_is_none(self, tmp_path, text, found):
        (tmp_path / "dataset_info.json").write_text(text)
        with pytest.raises(LorajaxError, match=f"dataset_info.json: {found}"):
            open_source(str(tmp_path))
        (tmp_path / "dataset_info.json").write_text("{}")
        with pytest.raises(LorajaxError, match="names no file of FLAN 2021 that is there; expected entries such as"):
            open_source(str(tmp_path)).clusters(Reading())

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "rte_train.json: is empty; expected train rows"),
            ("[]", "rte_train.json: is empty; expected train rows"),
            ('[{"instruction": "a", "output": "b"', "row 1: not JSON: .*; the file ends here"),
            ('[{"instruction": "a", "output": "b', "row 1: not JSON: .*; the file ends here"),
            ('[{"instruction": "a", "output": "b"},', "row 2: not JSON: .*; the file ends here"),
            ('[{"instruction": "a", "output": "b"}, ]', "row 2: not JSON"),
            ('[{"instruction": "a", "output": "b"}', "after row 1: expected ',' or '\\]', found the end of the file"),
            ('[{"instruction": "a", "output": "b"} {}]', "after row 1: expected ',' or '\\]', found '{'"),
            ('[{"instruction": "a", "output": "b"}]]', "after the array of 1 rows: expected its end, found '\\]'"),
            ('[{"instruction": "a" "output": "b"}]', "row 1: not JSON: Expecting ',' delimiter$"),
            ('[{"instruction": "a", "output": ' + "9" * 5000 + "}]", "row 1: not JSON"),
            ("[" * 100_000, "row 1: not JSON"),
        ],
    )
    def test_arrays_that_are_none_end_the_reading(self, tmp_path, content, message):
        factory(tmp_path, ["rte"], content=content)
        with pytest.raises(LorajaxError, match=message):
            read(tmp_path, "rte", reading=Reading(skip_bad_rows=5))

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (7, "row 2: expected a JSON object, found int"),
            ({"inputs": "a", "targets": "b"}, "row 2: 'instruction' must be a text, found the keys inputs, targets"),
            ({"instruction": "a", "output": 1}, "row 2: 'output' must be a text, found 1"),
            ({"instruction": "a", "input": None, "output": "b"}, "row 2: 'input' must be a text, found None"),
            ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, "row 2: 'history' must be empty or absent"),
            ({"instruction": "a", "output": "b", "system": "Be kind."}, "row 2: 'system' must be empty or absent"),
        ],
    )
    def test_bad_rows(self, tmp_path, row, message):
        good = factory_rows("rte", "train", 3)
        factory(tmp_path, ["rte"], content=json.dumps([good[0], row, good[1]]))
        with pytest.raises(LorajaxError, match=message):
            read(tmp_path, "rte")
        assert len(read(tmp_path, "rte", reading=Reading(skip_bad_rows=1))["rte"].train) == 2

    def test_wrong_encoding(self, tmp_path):
        file = tmp_path / "a.json"
        file.write_bytes('[{"output": "é"}]'.encode("latin-1"))
        with pytest.raises(LorajaxError, match="a.json: after row 0: could not be read: 'utf-8' codec"):
            list(read_array(file, Reading()))

    @pytest.mark.parametrize("indent", [None, 2])
    def test_arrays_longer_than_one_read(self, tmp_path, indent):
        """Every place where a read can end: within a text, an escape, a character of several bytes, between rows."""
        rows = [
            {"instruction": '\U0001f600é\\"' * (i % 97), "output": str(i), "list": [1.5e3, True]} for i in range(9000)
        ]
        rows[4000]["output"] = "x" * 3_000_000
        file = tmp_path / "a.json"
        file.write_text(json.dumps(rows, indent=indent, ensure_ascii=bool(indent)), "utf-8")
        assert file.stat().st_size > 6 << 20
        read_back = list(read_array(file, Reading()))
        assert [row for _, row in read_back] == rows
        assert read_back[-1][0] == f"{file}: row 9000"


def test_tasks_of_one_data_set_are_related(tmp_path):
    """E that is trained on one of them is not new to the others."""
    source = open_source(str(public(tmp_path, "rte")))
    assert source.related("anli_r1") == ["anli_r2", "anli_r3"]
    assert source.related("mnli_matched") == ["mnli_mismatched"]
    assert source.related("rte") == []
