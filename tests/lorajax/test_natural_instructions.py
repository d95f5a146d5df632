"""Natural Instructions files: what is read of them, how far, and what is wrong with bad ones."""

import collections
import json
import tracemalloc

import numpy as np
import pytest

from lorajax.data import natural_instructions
from lorajax.data.natural_instructions import cluster_of
from lorajax.data.reading import Reading
from lorajax.data.sources import Limits, absolute, open_source
from lorajax.data.task import CLUSTERS, Example
from lorajax.errors import LorajaxError
from tests.lorajax.test_data import PACK

ALL = Limits(10_000, 10_000)


def task_file(count=10, **keys):
    """A file as Super-NaturalInstructions has it, keys in its order."""
    return {
        "Contributors": ["A. Person"],
        "Source": ["sst2"],
        "URL": ["https://example.org/1"],
        "Categories": ["Sentiment Analysis"],
        "Reasoning": [],
        "Definition": ['Say "POS" or "NEG".'],
        "Input_language": ["English"],
        "Output_language": ["English"],
        "Instruction_language": ["English"],
        "Domains": ["Reviews -> Movies"],
        "Positive Examples": [{"input": "Fine.", "output": "POS", "explanation": "It is {fine}."}],
        "Negative Examples": [{"input": "Fine.", "output": "NEG", "explanation": "It is [fine]."}],
        "Instances": [
            {"id": f"task1-{i:04x}", "input": f"Film {i} é {'ä' * (i % 7)}", "output": ["POS", "positive"]}
            for i in range(count)
        ],
        "Instance License": ["Unknown"],
    } | keys


def write(folder, name="task001_sst2.json", content=None, **options):
    folder.mkdir(exist_ok=True)
    content = task_file() if content is None else content
    text = content if isinstance(content, str) else json.dumps(content, indent=4, **options)
    (folder / name).write_text(text, "utf-8")
    return folder


def read(folder, reading=None, limits=ALL):
    source, reading = open_source(f"ni:{folder}"), reading or Reading()
    return source.read(list(source.clusters(reading)), limits, reading)


def test_rows_of_a_file(tmp_path):
    reading = Reading()
    task = read(write(tmp_path), reading)["task001_sst2"]
    assert (task.name, task.cluster, len(task.train), len(task.test)) == ("task001_sst2", "sentiment", 8, 2)
    example = Example("task001_sst2", "sentiment", "Film 0 é ", ("POS", "positive"), 'Say "POS" or "NEG".')
    assert example in task.train + task.test
    assert reading.read == {"task001_sst2": 10}
    assert reading.report() == []


def test_order_of_the_file_and_limits(tmp_path):
    records = task_file(50)["Instances"]
    for i, row in enumerate(records):
        row["output"] = ["POS" if i < 25 else "NEG"]
    task = read(write(tmp_path / "a", content=task_file(Instances=records)))["task001_sst2"]
    cut = read(write(tmp_path / "b", content=task_file(Instances=records[::-1])), limits=Limits(10, 5))["task001_sst2"]
    assert (cut.train, cut.test) == (task.train[:10], task.test[:5])
    assert 2 <= sum(e.targets == ("POS",) for e in cut.train) <= 8


def test_tasks_in_the_order_of_their_numbers(tmp_path):
    for name in ("task1000_a.json", "task200_b.json", "taskless.json", "other.json"):
        write(tmp_path / "tasks", name)
    for folder in (tmp_path, tmp_path / "tasks"):
        clusters = open_source(f"ni:{folder}").clusters(Reading())
        assert list(clusters) == ["taskless", "task200_b", "task1000_a"]
    assert absolute(f"ni:{tmp_path}") == f"ni:{tmp_path}"


@pytest.mark.parametrize(
    ("category", "cluster"),
    [
        ("Textual Entailment", "nli"),
        ("Translation", "translation"),
        ("Question Answering", "question_answering"),
        ("Fill in The Blank", "fill_in_the_blank"),
        ("Detection -> Fake News Detection", "detection_fake_news_detection"),
        ("Misc.", "misc"),
    ],
)
def test_cluster_of_a_category(category, cluster):
    assert cluster_of(category) == cluster
    assert set(natural_instructions.CLUSTER_OF.values()) < set(CLUSTERS)


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1 << 16])
@pytest.mark.parametrize(
    "style", [{"indent": 4}, {"separators": (",", ":")}, {"ensure_ascii": False, "sort_keys": True}]
)
def test_decoded_in_blocks_as_by_json(tmp_path, monkeypatch, block, style):
    """Wherever a block ends, also inside a number, an escape or a word, the values are those that `json.load` gives."""
    monkeypatch.setattr(natural_instructions, "BLOCK", block)
    content = task_file(
        4, Number=-12345.5e-3, Truth=[True, None, []], Surrogates='\U0001f600 \\u00e9 "}]', Nested={"a": {}}
    )
    file = tmp_path / "task1.json"
    file.write_text(json.dumps(content, **style) + " \n", "utf-8")
    found = collections.defaultdict(list)
    for key, value in natural_instructions._scan(file):
        found[key].append(value)
    assert {k: v if k == "Instances" else v[0] for k, v in found.items()} == json.loads(file.read_text("utf-8"))


def test_clusters_read_no_further_than_they_must(tmp_path):
    """5 MB of instances behind the categories cost no memory, and what is wrong there is found when it is read."""
    text = json.dumps(task_file(50_000))
    write(tmp_path, content=text[: len(text) // 2])
    assert len(text) > 4e6
    tracemalloc.start()
    try:
        assert open_source(f"ni:{tmp_path}").clusters(Reading()) == {"task001_sst2": "sentiment"}
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    with pytest.raises(LorajaxError, match=r"task001_sst2\.json:1: not a task file: Unterminated string"):
        read(tmp_path)


def test_keys_in_any_order(tmp_path):
    content = dict(reversed(task_file().items()))
    assert list(content)[1] == "Instances"
    assert read(write(tmp_path / "a", content=content)) == read(write(tmp_path / "b"))


def changed(number, **keys):
    rows = task_file()["Instances"]
    rows[number] = {k: v for k, v in (rows[number] | keys).items() if v is not ...}
    return task_file(Instances=rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"task001_sst2\.json:1: not a task file: Expecting"),
        ("", r":1: not a task file: ends where '\{' is expected"),
        ("[1]", r":1: not a task file: expected '\{', found '\['"),
        ("{}", r"has no 'Definition' and 'Categories'; expected a Natural Instructions file"),
        ('{"a": 1,\n"a": 2}', r":2: not a task file: expected a new key, found 'a'"),
        ('{"a": 1\n"b": 2}', r":2: not a task file: expected ',' or '\}', found '\"'"),
        ('{"a": ' + "9" * 5000 + "}", r":1: not a task file: Exceeds the limit"),
        ('{"a": ' + "[" * 100_000, r":1: not a task file: .*recursion"),
        (task_file(Definition=[]), r"json: 'Definition' must be a list of at least one text, found \[\]"),
        (task_file(Definition=[" "]), r"json: 'Definition' must be a non-empty text, found ' '"),
        (task_file(Categories=[3]), r"json: 'Categories' must be a list of at least one text, found \[3\]"),
        (task_file(Categories=["?"]), r"'Categories': cluster '': this name cannot be used"),
        (task_file(Instances=[]), r"json: has no instances; expected 'Instances' to be a list"),
        ({k: v for k, v in task_file().items() if k != "Instances"}, r"json: has no instances"),
        (task_file(Instances={"id": 1}), r":\d+: not a task file: expected '\[', found '\{'"),
        (json.dumps(task_file()) + "{}", r":1: not a task file: there is more behind the JSON object"),
        (task_file(1), r"task 'task001_sst2': has no train rows \(of 1 rows"),
        (changed(3, id=...), r"json: instance 4: 'id' must be a non-empty text, found None"),
        (changed(3, input=...), r"json: instance 4 \('task1-0003'\): 'input' must be a non-empty text, found None"),
        (changed(3, input=" "), r"instance 4 \('task1-0003'\): 'input' must be a non-empty text, found ' '"),
        (changed(3, input="a\ud83d"), r"instance 4 \('task1-0003'\): 'input' holds '\\ud83d', half of a character"),
        (changed(3, output=...), r"instance 4 \('task1-0003'\): 'output' must be a list .*, found None"),
        (changed(3, output="POS"), r"instance 4 \('task1-0003'\): 'output' must be a list .*, found 'POS'"),
        (changed(3, output=[]), r"instance 4 \('task1-0003'\): 'output' must be a list"),
        (changed(3, output=["POS", ""]), r"instance 4 \('task1-0003'\): 'output' must be a non-empty text"),
        (changed(3, id="task1-0001"), r"instance 4: another one has the id 'task1-0001', too"),
        (task_file(Instances=["a"]), r"instance 1: expected a JSON object, found str"),
    ],
)
def test_bad_files(tmp_path, content, message):
    with pytest.raises(LorajaxError, match=message):
        read(write(tmp_path, content=content))


def test_other_encodings(tmp_path):
    write(tmp_path).joinpath("task001_sst2.json").write_bytes(
        json.dumps(task_file(), ensure_ascii=False).encode("latin-1")
    )
    with pytest.raises(LorajaxError, match=r"task001_sst2\.json: could not be read: 'utf-8' codec can't decode"):
        read(tmp_path)


def test_bad_rows_are_passed_over_and_told(tmp_path):
    rows = task_file()["Instances"]
    rows[2]["output"], rows[5]["id"] = [], rows[4]["id"]
    write(tmp_path, content=task_file(Instances=rows))
    reading = Reading(skip_bad_rows=2)
    task = read(tmp_path, reading)["task001_sst2"]
    assert len(task.train) + len(task.test) == 8
    assert [line.split("instance ")[1][:2] for line in reading.report()] == ["3 ", "6:"]
    with pytest.raises(LorajaxError, match=r"instance 6: .* \(after 1 bad rows that --skip-bad-rows allowed\)"):
        read(tmp_path, Reading(skip_bad_rows=1))


def test_bad_folders(tmp_path):
    with pytest.raises(LorajaxError, match=r"--data ni:.*none: no such folder; expected a folder of Natural"):
        read(tmp_path / "none")
    with pytest.raises(LorajaxError, match=r"holds no task\*\.json, and no folder 'tasks' that does"):
        read(tmp_path)
    write(tmp_path)
    with pytest.raises(LorajaxError, match="is not a folder"):
        read(tmp_path / "task001_sst2.json")


@pytest.mark.skipif(not PACK.is_dir(), reason=f"needs the project's data pack at {PACK}")
@pytest.mark.parametrize("file", ["sentiment/ni363_sst2", "summarization/ni511_reddit_tifu"])
def test_real_instances(tmp_path, file):
    """Rows of Super-NaturalInstructions, put back into its format."""
    rows = [json.loads(line) for line in (PACK / "tasks" / f"{file}.jsonl").read_text("utf-8").splitlines()]
    instances = [{"id": str(i), "input": row["input"], "output": row["targets"]} for i, row in enumerate(rows)]
    category = {"sentiment": "Sentiment Analysis", "summarization": "Summarization"}[rows[0]["cluster"]]
    content = task_file(Definition=[rows[0]["definition"]], Categories=[category], Instances=instances)
    (task,) = read(write(tmp_path, content=content, ensure_ascii=False)).values()
    assert task.cluster == rows[0]["cluster"]
    assert {(e.definition, e.input, *e.targets) for e in task.train + task.test} == {
        (row["definition"], row["input"], *row["targets"]) for row in rows
    }
    np.testing.assert_allclose(len(task.test) / len(rows), 0.2, atol=0.1)
