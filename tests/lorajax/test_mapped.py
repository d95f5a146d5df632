"""Tables of any kind by a mapping file: what is read, which rows are kept, and what is wrong with bad ones."""

import csv
import gzip
import hashlib
import json
import random
import textwrap
import tracemalloc

import pytest

from lorajax.data import mapping_file
from lorajax.data.fields import Template
from lorajax.data.mapped import Selection
from lorajax.data.reading import Reading
from lorajax.data.sources import Limits, absolute, open_source
from lorajax.data.splits import Row
from lorajax.data.task import Example
from lorajax.errors import LorajaxError

ALL = Limits(10_000, 10_000)
RECORDS = [
    {"text": f'text {i}, "quoted" é', "label": i % 2, "document": f"d{i % 10}", "split": "train" if i % 4 else "test"}
    for i in range(40)
]
TASK = {"files": "a.jsonl", "cluster": "nli", "input": "{text}", "target": "label"}


def toml(value):
    """`value` in TOML, on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def write_mapping(folder, name="a", **keys):
    """A mapping file with one task: TASK with other keys; those that are None are left out."""
    keys = {key: value for key, value in (TASK | keys).items() if value is not None}
    lines = [f"[tasks.{json.dumps(name)}]", *(f"{key} = {toml(value)}" for key, value in keys.items())]
    file = folder / "map.toml"
    file.write_text("\n".join(lines), "utf-8")
    return file


def write(folder, name, records=RECORDS):
    """A table of `records`, of the kind that `name` says."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(records), file, row_group_size=16)
        return file
    with (gzip.open if name.endswith(".gz") else open)(file, "wt", encoding="utf-8") as stream:
        if ".jsonl" in name:
            stream.writelines(json.dumps(record) + "\n" for record in records)
        elif ".csv" in name:
            writer = csv.DictWriter(stream, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
        else:
            stream.writelines("\t".join(map(str, row)) + "\n" for row in [records[0], *(r.values() for r in records)])
    return file


def read(file, limits=ALL, reading=None):
    source = open_source(f"mapped:{file}")
    return source.read(list(source.clusters(Reading())), limits, reading or Reading())


def read_one(folder, records=RECORDS, reading=None, limits=ALL, **keys):
    """The task of a JSONL file of `records`."""
    write(folder, "a.jsonl", records)
    return read(write_mapping(folder, **keys), limits, reading)["a"]


def test_the_example_of_the_documentation(tmp_path):
    text = textwrap.dedent(mapping_file.__doc__.split("header:\n")[1].split("`KEYS`")[0])
    file = tmp_path / "map.toml"
    file.write_text(text)
    for split, count in (("train", 6), ("test", 4)):
        (tmp_path / "ag_news").mkdir(exist_ok=True)
        with (tmp_path / "ag_news" / f"{split}.csv").open("w") as stream:
            rows = [(i % 4 + 1, f"{split} {i}", 'Of "this", \\$1.') for i in range(count)]
            csv.writer(stream, quoting=csv.QUOTE_ALL).writerows(rows)
    reading = Reading()
    assert open_source(f"mapped:{file}").clusters(reading) == {"ag_news": "summarization"}
    assert absolute(f"mapped:{file}") == f"mapped:{file}"
    (task,) = read(file, reading=reading).values()
    assert (len(task.train), len(task.test), reading.read, reading.report()) == (6, 4, {"ag_news": 10}, [])
    labels = ("World", "Sports", "Business", "Sci/Tech")
    assert set(task.test) == {
        Example(
            "ag_news",
            "summarization",
            f'test {i}\n\nOf "this", \\$1.',
            (label,),
            "What is this news article about?",
            labels,
        )
        for i, label in enumerate(labels)
    }


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl.gz", "a.parquet", "data/a.parquet"])
def test_every_format_gives_the_same_task(tmp_path, name):
    write(tmp_path, name)
    expected = read_one(tmp_path, input="Say: {text}", group="document", labels={"0": "no", "1": "yes {text}"})
    keys = {"input": "Say: {text}", "group": "document", "labels": {"0": "no", "1": "yes {text}"}}
    task = read(write_mapping(tmp_path, files=name, **keys))["a"]
    assert task == expected
    assert len(task.train) + len(task.test) == 40
    assert {e.targets[0][:3] for e in task.train} == {"no", "yes"}


@pytest.mark.parametrize("splits", [None, {"train": "train", "test": "validation"}, "train", ["train", "validation"]])
def test_a_data_set_of_the_library(tmp_path, splits):
    """`datasets` reads a folder as it reads one of the hub; "validation" is the dev side, which stands in for test."""
    pytest.importorskip("datasets")
    sides = {"train": RECORDS[:30], "validation": RECORDS[30:]}
    for split, records in sides.items():
        write(tmp_path, f"hub/data/{split}-00000-of-00001.parquet", records)
    file = write_mapping(tmp_path, files=None, dataset="./hub", splits=splits)
    task = read(file)["a"]
    found = [{e.input for e in side} for side in (task.train, task.test)]
    if isinstance(splits, (dict, type(None))):
        assert found == [{r["text"] for r in records} for records in sides.values()]
    else:
        assert found[0] | found[1] == {r["text"] for split in splits for r in sides.get(split, RECORDS[:30])}
        assert not found[0] & found[1]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"splits": {"train": "train", "test": "dev"}}, r"dataset './hub': has no split 'dev'; there are train"),
        ({}, r"dataset './hub': expected train, and test or dev; found train\. Name those to read in 'splits'"),
        ({"splits": "train", "input": "{txt}"}, r"'input' names the field 'txt'; the fields of ./hub\[train\] are text, .*; did you mean 'text'"),
        ({"splits": "train", "config": "none"}, r"dataset './hub': could not be opened: .*none.* --repo-type dataset"),
        ({"dataset": "./none"}, "dataset './none': no such folder in"),
        ({"dataset": "../hub"}, "'dataset' must be owner/name, or ./name for a folder; found '../hub'"),
        ({"dataset": "lorajax/none"}, r"dataset 'lorajax/none': could not be opened: .* give it as './folder'"),
    ],
)  # fmt: skip
def test_bad_data_sets(tmp_path, keys, message):
    pytest.importorskip("datasets")
    write(tmp_path, "hub/train.parquet")
    with pytest.raises(LorajaxError, match=r"map\.toml: tasks\.a: " + message):
        read(write_mapping(tmp_path, **{"files": None, "dataset": "./hub"} | keys))


class TestFields:
    """From a row to an example."""

    def example(self, folder, record, **keys):
        return read_one(folder, [record | {"n": i} for i in range(5)], **{"input": "{n}"} | keys).train[0]

    def test_several_answers_of_a_nested_field(self, tmp_path):
        record = {"answers": {"text": ["one", "1"], "start": [0, 3]}}
        assert self.example(tmp_path, record, target="answers.text").targets == ("one", "1")
        assert self.example(tmp_path, record, target="{answers.text}").targets == ("one", "1")
        write(tmp_path, "a.parquet", [record | {"n": i} for i in range(5)])
        task = read(write_mapping(tmp_path, files="a.parquet", input="{n}", target="answers.text"))["a"]
        assert task.train[0].targets == ("one", "1")

    def test_options_and_labels_from_the_row(self, tmp_path):
        record = {"one": "a fork", "two": "a spoon", "label": 1}
        options = ["{one}", "{two}"]
        example = self.example(tmp_path, record, labels={"0": "{one}", "1": "{two}"}, options=options)
        assert (example.options, example.targets) == (("a fork", "a spoon"), ("a spoon",))
        assert self.example(tmp_path, record, target=None, correct_option="label", options=options) == example
        record = {"endings": ["a fork", "a spoon"], "label": "1"}
        assert self.example(tmp_path, record, target=None, correct_option="label", options="endings") == example

    @pytest.mark.parametrize(
        ("value", "text"),
        [(True, "true"), (1, "1"), (1.0, "1.0"), (2.5, "2.5"), ("a {b} %s \\ {", "a {b} %s \\ {")],
    )
    def test_values_as_text(self, tmp_path, value, text):
        assert self.example(tmp_path, {"label": value}, target="<{label}> {{}}").targets == (f"<{text}> {{}}",)
        assert self.example(tmp_path, {"label": value}).targets == (text,)

    @pytest.mark.parametrize(("value", "key"), [(1, "1"), (1.0, "1"), ("1", "1"), (True, "true"), (-1, "-1")])
    def test_values_as_labels(self, tmp_path, value, key):
        assert self.example(tmp_path, {"label": value}, labels={key: "yes", "": "no"}).targets == ("yes",)

    def test_a_template_reads_fields_only(self):
        """A template is no format string of Python: nothing of a value can be reached but what the row holds."""
        template = Template.parse("{x.__class__}")
        with pytest.raises(KeyError):
            template.fill({"x": "a"}, "here")


class TestSplits:
    def test_a_field_names_the_split(self, tmp_path):
        task = read_one(tmp_path, split="split")
        assert {e.input for e in task.test} == {r["text"] for r in RECORDS if r["split"] == "test"}
        assert len(task.train) == 30

    def test_dev_rows_are_told_of_or_stand_in_for_test_rows(self, tmp_path):
        for name, part in (("train", slice(20)), ("dev", slice(20, 35)), ("test", slice(35, 40))):
            write(tmp_path, f"{name}.csv", RECORDS[part])
        reading = Reading()
        files = {"train": "train.csv", "dev": "dev.csv", "test": "test.csv"}
        task = read(write_mapping(tmp_path, files=files), reading=reading)["a"]
        assert (len(task.train), len(task.test)) == (20, 5)
        assert reading.report() == ["task a: of 40 rows read, 15 are dev rows: left out"]
        del files["test"]
        assert len(read(write_mapping(tmp_path, files=files))["a"].test) == 15

    def test_where_keeps_some_rows(self, tmp_path):
        reading = Reading()
        task = read_one(tmp_path, reading=reading, where={"label": 1, "document": ["d1", "d3"]})
        assert len(task.train) + len(task.test) == 8
        assert {e.targets for e in task.train} == {("1",)}
        assert reading.report() == ["task a: of 40 rows read, 32 are not what 'where' asks for: left out"]

    def test_globs_and_lists(self, tmp_path):
        for i in range(4):
            write(tmp_path, f"{'ab'[i % 2]}/part-{i}.csv", RECORDS[10 * i : 10 * i + 10])
        write(tmp_path, "a/.part-9.csv")
        for files in ("*/*.csv", "**/part-?.csv", ["a/*.csv", "b/part-[13].csv"], ["./a/*", "b/*", "a/part-0.csv"]):
            task = read(write_mapping(tmp_path, files=files))["a"]
            assert len({e.input for e in task.train + task.test}) == 40

    @pytest.mark.parametrize("groups", [0, 2, 3, 40])
    @pytest.mark.parametrize("limits", [(10_000, 10_000), (20, 7), (1, 1)])
    def test_selection_is_what_its_description_says(self, groups, limits):
        """Against the definition, on all rows at once; in any order of the rows."""

        def digest(text):
            return int.from_bytes(hashlib.sha256(text.encode()).digest())

        rows = [
            Row(Example("a", "nli", f"n {i // 2}", (str(i),)), None, "here", f"g{i % groups}" if groups else None)
            for i in range(300)
        ]
        units = sorted({row.unit for row in rows}, key=digest)
        tested = {u for u in units if digest(u) < 0.2 * 2**256 or u == units[0]} - {units[-1]}
        ranked = sorted(rows, key=lambda row: digest(f"{row.example.input}\0{row.example.targets[0]}"))
        train = [row.example for row in ranked if row.unit not in tested]
        test = [row.example for row in ranked if row.unit in tested]
        for seed in range(5):
            selection = Selection("a", "nli", Limits(*limits))
            for row in random.Random(seed).sample(rows, len(rows)):
                selection.add(row)
            task = selection.task(Reading())
            assert (list(task.train), list(task.test)) == (train[: limits[0]], test[: limits[1]])
        if groups in (0, 40):
            assert 0.1 < len(test) / len(rows) <= 0.3

    def test_two_inputs_are_enough(self, tmp_path):
        for i in range(20):
            task = read_one(tmp_path, [{"text": f"{i} {j}", "label": 0} for j in range(2)])
            assert (len(task.train), len(task.test)) == (1, 1)

    def test_order_of_the_file_does_not_matter(self, tmp_path):
        records = [{"text": f"n {i}", "label": int(i < 60)} for i in range(100)]
        task = read_one(tmp_path, records, limits=Limits(40, 10))
        assert read_one(tmp_path, records[::-1], limits=Limits(40, 10)) == task
        assert (len(task.train), len(task.test)) == (40, 10)
        for examples in (task.train, task.train[:16], task.test):
            assert 0.3 < sum(e.targets == ("1",) for e in examples) / len(examples) < 0.9


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize(("count", "words"), [(10_000, 800), pytest.param(200_000, 40, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_table(tmp_path, name, count, words):
    """Of 40 MB of rows 150 are kept: Python holds less than 8 MB, Arrow less than 32 MB more than before."""
    filler, bytes_before = "word " * words, 0
    if name == "a.jsonl":
        with (tmp_path / name).open("w") as stream:
            stream.writelines(f'{{"text": "{i} {filler}", "label": {i % 2}}}\n' for i in range(count))
    else:
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        schema = arrow.schema({"text": arrow.string(), "label": arrow.int64()})
        with parquet.ParquetWriter(tmp_path / name, schema) as out:
            for start in range(0, count, count // 20):
                part = range(start, start + count // 20)
                out.write_table(arrow.table({"text": [f"{i} {filler}" for i in part], "label": [i % 2 for i in part]}))
        bytes_before = arrow.default_memory_pool().max_memory()
    reading, file = Reading(), write_mapping(tmp_path, files=name)
    tracemalloc.start()
    try:
        task = read(file, Limits(100, 50), reading)["a"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(task.train), len(task.test), reading.read["a"]) == (100, 50, count)
    assert peak < 8e6
    if name == "a.parquet":
        assert arrow.default_memory_pool().max_memory() - bytes_before < 32e6


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"inputs": "x"}, r"unknown key 'inputs': did you mean 'input'\? Keys are files, "),
        ({"files": None}, "expected either 'files' or 'dataset', found 'cluster', 'input', 'target'"),
        ({"dataset": "a/b"}, "expected either 'files' or 'dataset', found 'files'"),
        ({"input": None}, "expected 'input', found 'files', 'cluster', 'target'"),
        ({"cluster": None}, "expected 'cluster'"),
        ({"cluster": "a/b"}, "cluster 'a/b': this name cannot be used"),
        ({"cluster": 3}, "'cluster' must be a non-empty text, found 3"),
        ({"target": None}, "expected either 'target' or 'correct_option'"),
        ({"target": None, "correct_option": "label"}, "'correct_option' goes with 'options', which is not there"),
        ({"labels": {"0": "a"}, "target": "{text} {label}"}, "'labels' must be a table, and 'target' one field"),
        ({"labels": {"0": 1}}, r"'labels\.0' must be a non-empty text, found 1"),
        ({"labels": ["a", "b"]}, "'labels' must be a table"),
        ({"splits": "train"}, "'splits' goes with 'dataset', which is not there"),
        ({"files": None, "dataset": "b", "columns": ["a"]}, "'columns' goes with 'files'"),
        ({"format": "xls"}, "'format' must be one of csv, tsv, jsonl, parquet, found 'xls'"),
        ({"input": "text"}, r"'input' holds no \{field\}, so all prompts would be equal; found 'text'"),
        ({"input": "{text"}, r"'input': expected '\}' before end of string \(a brace itself is written \{\{ or \}\}\)"),
        ({"input": "{text!r}"}, r"'input': expected \{field\} and no more in braces, in '\{text!r\}'"),
        ({"input": "{text:>9}"}, r"'input': expected \{field\} and no more"),
        ({"input": "{}"}, r"'input': expected \{field\} and no more"),
        ({"options": []}, r"'options' must be a list of at least one text, found \[\]"),
        ({"options": [1]}, "'options' must be a non-empty text, found 1"),
        ({"files": []}, "'files' is empty"),
        ({"files": {"train": "a.jsonl"}}, "'files': expected train, and test or dev; found train"),
        ({"files": {"train": "a.jsonl", "eval": "b"}}, "'files': 'split' must be one of train, .*, found 'eval'"),
        ({"files": {"train": "a.jsonl", "test": "*.jsonl"}}, r"'files': .*a\.jsonl is both train and test"),
        ({"files": {"train": "a.jsonl", "test": "b"}, "split": "split"}, "'split' goes with files or splits that are one"),
        ({"files": "../a.jsonl"}, r"'files': the path '\.\./a\.jsonl' leaves its folder"),
        ({"files": "/a.jsonl"}, r"'files': the path '/a\.jsonl' leaves its folder"),
        ({"files": "*.csv"}, r"'files': '\*\.csv' matches no file in /"),
        ({"files": "map.toml"}, r"'files': .*map\.toml: expected a name that ends in \.csv, \.tsv, \.jsonl, \.parquet"),
        ({"columns": ["text", "label"]}, r"'columns' names those of CSV and TSV files; .*a\.jsonl names its own"),
        ({"where": "x"}, "'where' must be a table of field to value, found 'x'"),
        ({"where": {"text": []}}, r"'where': expected a value or a list of them for 'text', found \[\]"),
        ({"where": {"text": "none"}}, "no rows are left to read"),
    ],
)  # fmt: skip
def test_bad_mappings(tmp_path, keys, message):
    with pytest.raises(LorajaxError, match=r"map\.toml: tasks\.a: " + message):
        read_one(tmp_path, **keys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tasks.a", r"map\.toml: not a mapping file \(TOML in UTF-8\): Expected '\]'"),
        (b"\xff\xfe", r"map\.toml: not a mapping file \(TOML in UTF-8\): 'utf-8'"),
        ('{"a": 1}', r"map\.toml: not a mapping file"),
        ("", r"map\.toml: expected a table \[tasks\.NAME\] for each task and nothing else, found nothing"),
        ("[task.a]\ninput = 3", r"expected a table \[tasks\.NAME\] .*, found 'task'"),
        ("[tasks]\na = 1", r"map\.toml: tasks\.a: expected a table, found 1"),
        ('[tasks."a/b"]', r"map\.toml: task 'a/b': this name cannot be used"),
    ],
)
def test_not_a_mapping_file(tmp_path, text, message):
    file = tmp_path / "map.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LorajaxError, match=message):
        read(file)


def test_no_mapping_file(tmp_path):
    with pytest.raises(LorajaxError, match=r"none\.toml: could not be read: No such file or directory"):
        read(tmp_path / "none.toml")
    with pytest.raises(LorajaxError, match="could not be read: Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("record", "keys", "message"),
    [
        ({"txt": "a", "label": 1}, {}, r"map\.toml: tasks\.a: 'input' names the field 'text'; the fields of .*a\.jsonl:41 are txt, label; did you mean 'txt'"),
        ({"text": "a", "label": 3}, {"labels": {"0": "no", "1": "yes"}}, r"a\.jsonl:41: field 'label' holds 3; 'labels' of .*tasks\.a knows 0, 1"),
        ({"text": "a", "label": None}, {"labels": {"0": "no", "1": "yes"}}, r"a\.jsonl:41: field 'label' holds None; 'labels'"),
        ({"text": None, "label": 1}, {}, r"a\.jsonl:41: field 'text': expected a text or a number, found None"),
        ({"text": "a", "label": float("nan")}, {}, r"field 'label': expected a text or a number, found nan"),
        ({"text": {"a": 1}, "label": 1}, {}, r"field 'text': expected a text or a number, found \{'a': 1\}"),
        ({"text": " ", "label": 1}, {}, r"a\.jsonl:41: 'input' of .*tasks\.a comes out empty"),
        ({"text": "a\ud83d", "label": 1}, {}, r"a\.jsonl:41: 'input' of .*tasks\.a holds '\\ud83d', half of a character"),
        ({"text": "a", "label": []}, {}, r"field 'label': expected a list of at least one text, found \[\]"),
        ({"text": "a", "label": ["x", None]}, {}, r"field 'label': expected a list of at least one text"),
        ({"text": "a", "label": 2}, {"target": None, "correct_option": "label", "options": ["a", "b"]}, r"field 'label': expected the number of one of the 2 options, from 0; found '2'"),
        ({"text": "a", "label": 1, "split": "held out"}, {"split": "split"}, r"a\.jsonl:41: field 'split': 'split' must be one of train, .*, found 'held out'"),
        ({"text": "a", "label": 1, "split": None}, {"split": "split"}, r"a\.jsonl:41: its split is None, but not all rows of task 'a' say theirs"),
        ({"text": "a", "label": 1, "document": None}, {"group": "document"}, r"field 'document': expected a text or a number"),
        ({"text": "a", "label": 1, "document": "\ud83d"}, {"group": "document"}, r"'group' of .* holds '\\ud83d'"),
        ('{"text": "a", "lab', {}, r"a\.jsonl:41: not JSON"),
        ("[1]", {}, r"a\.jsonl:41: expected a JSON object, found list"),
    ],
)  # fmt: skip
def test_bad_rows(tmp_path, record, keys, message):
    """A bad row stops the reading, or is passed over and told of."""
    file = write(tmp_path, "a.jsonl")
    with file.open("a") as stream:
        stream.write(record if isinstance(record, str) else json.dumps(record))
    mapping = write_mapping(tmp_path, **keys)
    with pytest.raises(LorajaxError, match=message):
        read(mapping)
    reading = Reading(skip_bad_rows=1)
    task = read(mapping, reading=reading)["a"]
    assert len(task.train) + len(task.test) == 40
    assert len(reading.bad_rows) == 1


def test_a_named_split_without_rows(tmp_path):
    write(tmp_path, "train.jsonl")
    write(tmp_path, "test.jsonl", [])
    file = write_mapping(tmp_path, files={"train": "train.jsonl", "test": "test.jsonl"})
    with pytest.raises(LorajaxError, match=r"tasks\.a: no rows of the test split are left to read"):
        read(file)
    records = [record | {"split": "train"} for record in RECORDS]
    with pytest.raises(LorajaxError, match=r"task 'a': has no test rows \(of 40 rows\)"):
        read_one(tmp_path, records, split="split")
    with pytest.raises(LorajaxError, match=r"task 'a': has no train rows \(of 40 rows, all of one group or input\)"):
        read_one(tmp_path, records, group="split")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"a\.csv: expected a header of different columns, found \[\]"),
        ("text,text\n", r"a\.csv: expected a header of different columns, found \['text', 'text'\]"),
        ("txt,label\na,b\n", r"tasks\.a: 'input' names the field 'text'; the fields of .*a\.csv are txt, label; did you mean 'txt'"),
        ("text,label\na,b\n\nc,d,e\n", r"a\.csv:4: found 3 fields, expected the 2 columns"),
        ('text,label\na,"b\nc"\nd\n', r"a\.csv:4: found 1 fields"),
        ('text,label\n"a"b,c\n', r"a\.csv:2: not CSV: ',' expected after '\"'"),
        ('text,label\na,b\n"c,d\n', r"a\.csv:3: not CSV: unexpected end of data"),
        ("text,label\né,b\n".encode("latin-1"), r"a\.csv:1: could not be read; expected CSV in UTF-8"),
    ],
)  # fmt: skip
def test_bad_csv(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LorajaxError, match=message):
        read(write_mapping(tmp_path, files="a.csv"))


def test_csv_as_spreadsheets_write_it(tmp_path):
    """A byte-order mark, lines that end in CR LF, and a document that is longer than the csv module's own limit."""
    long = "word " * 40_000
    (tmp_path / "a.csv").write_bytes(f'\ufefftext,label\r\n"a ""b""\r\nc",1\r\n{long},2\r\n'.encode())
    task = read(write_mapping(tmp_path, files="a.csv"))["a"]
    assert {(e.input, e.targets[0]) for e in task.train + task.test} == {('a "b"\r\nc', "1"), (long, "2")}


def test_tsv_has_no_quotes(tmp_path):
    (tmp_path / "a.txt").write_text('"a\t1\nb "\t2\n')
    task = read(write_mapping(tmp_path, files="a.txt", format="tsv", columns=["text", "label"]))["a"]
    assert {(e.input, e.targets[0]) for e in task.train + task.test} == {('"a', "1"), ('b "', "2")}


@pytest.mark.parametrize(
    ("name", "cut", "message"),
    [
        ("a.parquet", slice(0, -20), r"a\.parquet row 1: could not be read; expected Parquet: "),
        ("a.parquet", slice(20), r"a\.parquet row \d+: could not be read; expected Parquet: "),
        ("a.parquet", slice(0), r"a\.parquet row 1: could not be read; expected Parquet: "),
        ("a.csv.gz", slice(0, -20), r"a\.csv\.gz:\d+: could not be read; expected CSV in UTF-8: "),
        ("a.csv.gz", slice(5, None), r"a\.csv\.gz:1: could not be read; expected CSV in UTF-8: Not a gzipped file"),
        ("a.jsonl.gz", slice(0, -20), r"a\.jsonl\.gz:\d+: could not be read: "),
    ],
)
def test_damaged_files(tmp_path, name, cut, message):
    file = write(tmp_path, name)
    file.write_bytes(file.read_bytes()[cut])
    with pytest.raises(LorajaxError, match=message):
        read(write_mapping(tmp_path, files=name))


def test_a_parquet_file_that_lacks_a_field(tmp_path):
    write(tmp_path, "a.parquet")
    with pytest.raises(
        LorajaxError,
        match=r"tasks\.a: 'group' names the field 'doc'; the fields of .*a\.parquet are text, label, document, split",
    ):
        read(write_mapping(tmp_path, files="a.parquet", group="doc"))  # fmt: skip
