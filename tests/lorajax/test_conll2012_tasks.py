"""Linguistic tasks made of CoNLL-2012 files: what they ask and answer, and which documents they are trained on."""

import json
import re

import pytest

from lorajax.data.conll2012 import Conll2012, open_source
from lorajax.data.conll2012.detokenize import detokenize
from lorajax.data.conll2012.document import Sentence
from lorajax.data.conll2012.passages import Passage, passages, whole
from lorajax.data.conll2012.reader import read_documents
from lorajax.data.conll2012.selection import CHOICES
from lorajax.data.conll2012.sides import side_of
from lorajax.data.conll2012.tasks import KINDS
from lorajax.data.conll2012.tree import read_tree
from lorajax.data.reading import Reading
from lorajax.data.sources import Limits
from lorajax.data.sources import open_source as open_any
from lorajax.data.task import CLUSTERS
from lorajax.errors import LorajaxError
from tests.lorajax.test_conll2012 import PACK, SAMPLE, write

EVERYTHING = Limits(10_000, 10_000)
needs_pack = pytest.mark.skipif(not PACK.is_dir(), reason=f"needs the project's data pack at {PACK}")


def where(word):
    return f"f:{word}"


def passage(*sentences, chains=()):
    """A passage of sentences given as words and tags with underscores ("Ada_NNP left_VBD") and parse bits."""
    built = []
    for text, bits in sentences:
        words, tags = zip(*(item.rsplit("_", 1) for item in text.split()), strict=True)
        built.append(Sentence(words, tags, read_tree(bits.split(), where), (), (), 1))
    return Passage("own", tuple(built), tuple(chains))


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    (document,) = read_documents([write(tmp_path_factory.mktemp("sample"))], Reading())
    return document


class TestDetokenize:
    @pytest.mark.parametrize(
        ("words", "text"),
        [
            ("Yes_UH ,_, she_PRP did_VBD n't_RB ._.", "Yes, she didn't."),
            (
                "the_DT girls_NNS '_POS well_RB -_HYPH known_VBN book_NN 's_POS end_NN",
                "the girls' well-known book's end",
            ),
            ("``_`` Go_VB !_. ''_'' he_PRP said_VBD -LRB-_-LRB- twice_RB -RRB-_-RRB- :_:", '"Go!" he said (twice):'),
            ("\"_`` Go_VB \"_'' and_CC \"_`` stay_VB \"_''", '"Go" and "stay"'),
            ('"_X Go_VB "_X and_CC "_X stay_VB "_X', '"Go" and "stay"'),
            ("$_$ 5_CD or_CC US$_$ 6_CD or_CC 7_CD %_NN", "$5 or US$6 or 7%"),
            ("oh_UH :-RRB-_NFP Re-LRB-a-RRB-d_VB -LSB-_-LRB- 1_CD -RSB-_-RRB- ok_UH /._.", "oh :) Re(a)d [1] ok."),
            ("1950_CD –_SYM 60_CD and_CC /_SYM or_CC a_DT -_: b_NN", "1950–60 and/or a - b"),
            ("they_PRP ’ve_VBP can_MD not_RB", "they’ve can not"),
        ],
    )
    def test_spaces(self, words, text):
        assert detokenize(*zip(*(item.rsplit("_", 1) for item in words.split()), strict=True)) == text

    @needs_pack
    def test_against_the_original_spaces(self):
        """The pack's other rows have the text as it was written: 99 % of its spaces are where the writer had them."""
        documents = read_documents(sorted(PACK.rglob("*_gold_conll")), Reading())
        names = {i["id"]: i["linguistic_doc"] for i in json.loads((PACK / "manifest.json").read_text())["items"]}
        texts = {names[document.name]: whole(document).text for document in documents}

        def spaces(text):
            packed = "".join(text.split())
            ends, length = set(), 0
            for word in text.split():
                length += len(word)
                ends.add(length)
            return packed, ends

        both = ours = theirs = rows = 0
        for file in ("ewt_count_sentences", "gum_count_sentences"):
            for line in (PACK.parent / "linguistic" / f"{file}.jsonl").read_text("utf-8").splitlines():
                row = json.loads(line)
                if row["doc"] in texts:
                    original, written = spaces(row["input"].removeprefix("### Document: "))
                    packed, made = spaces(texts[row["doc"]])
                    start = packed.index(original)  # every letter is there
                    inside = range(1, len(original))
                    made = {end - start for end in made if end - start in inside}
                    written = {end for end in written if end in inside}
                    both, ours, theirs = both + len(made & written), ours + len(made), theirs + len(written)
                    rows += 1
        assert rows == 144
        assert both / ours > 0.99
        assert both / theirs > 0.99


ANSWERS = {
    "coref_anchor": "The mayor of Lyon opened the mayor of Lyon's old bridge in May. "
    "When the mayor of Lyon crossed it, the mayor of Lyon smiled.",
    "coref_chains": "The mayor of Lyon = her = she = she; her old bridge = it",
    "srl_statements": "The mayor of Lyon opened her old bridge in May. she crossed it.",
    "srl_frames": "opened(The mayor of Lyon, her old bridge); crossed(she, it); smiled(she, -)",
    "syntax_core": "The mayor opened her old bridge. She smiled.",
    "syntax_subjects": "The mayor of Lyon; she; she",
    "ner_sentences": "The mayor of Lyon opened her old bridge in May.",
    "ner_list": "Lyon (GPE)",
    "first10_words": "The mayor",
    "last10_words": "she smiled.",
    "every10th_words": "opened crossed",
    "every2nd_words": "The of opened old in When crossed she",
    "first10_sentences": "The mayor of Lyon opened her old bridge in May.",
    "last10_sentences": "When she crossed it, she smiled.",
    "every10th_sentences": "The mayor of Lyon opened her old bridge in May.",
    "every2nd_sentences": "The mayor of Lyon opened her old bridge in May.",
    "count_words": "16",
    "count_sentences": "2",
    "count_entities": "1",
    "count_verbs": "3",
    "count_subjects": "3",
    "count_chains": "2",
}


class TestTasks:
    @pytest.mark.parametrize("name", KINDS)
    def test_answers(self, sample, name):
        first, second = passages(sample, 100)
        assert KINDS[name].answer(first) == ANSWERS[name]
        others = {
            "syntax_core": "Fog hid (it does).",
            "coref_anchor": "Fog hid (fog does).",
            "coref_chains": "Fog = it",
        }
        if not name.startswith("count") and KINDS[name].needs:
            assert KINDS[name].answer(second) == others.get(name, "Fog; it" if name == "syntax_subjects" else "none")

    @pytest.mark.parametrize(
        ("count", "first", "last", "tens", "halves"),
        [
            (1, [0], [0], [0], [0]),
            (5, [0], [4], [2], [0, 2, 4]),
            (14, [0], [13], [4, 11], [0, 2, 4, 6, 8, 10, 12]),
            (15, [0, 1], [13, 14], [4, 12], [0, 2, 4, 6, 8, 10, 12, 14]),
            (40, [0, 1, 2, 3], [36, 37, 38, 39], [4, 14, 24, 34], list(range(0, 40, 2))),
        ],
    )
    def test_choices(self, count, first, last, tens, halves):
        items = [str(i) for i in range(count)]
        found = [[int(i) for i in choice(items)] for choice in CHOICES.values()]
        assert found == [first, last, tens, halves]

    @pytest.mark.parametrize(
        ("text", "bits", "core", "subjects"),
        [
            # A complement stays, a clause of time goes; the noun phrase next to the verb phrase is the subject.
            (
                "Today_NN we_PRP say_VBP that_IN rain_NN falls_VBZ if_IN clouds_NNS form_VBP ._.",
                "(TOP(S(NP*) (NP*) (VP* (SBAR* (S(NP*) (VP*))) (SBAR* (S(NP*) (VP*)))) *))",
                "Today we say that rain falls.",
                "we; rain; clouds",
            ),
            (
                "Is_VBZ he_PRP coming_VBG ,_, because_IN of_IN me_PRP ?_.",
                "(TOP(SQ* (NP*) (VP*) * (PP* * (NP*)) *))",
                "Is he coming?",
                "he",
            ),
            (
                "She_PRP sings_VBZ at_IN home_NN and_CC in_IN bars_NNS -LRB-_-LRB- by_IN night_NN -RRB-_-RRB- ._.",
                "(TOP(S(NP*) (VP* (UCP(PP* (NP*)) * (PP* (NP*))) (PRN* (PP* (NP*)) *)) *))",
                "She sings.",
                "She",
            ),
            (
                "What_WP you_PRP see_VBP when_WRB it_PRP snows_VBZ is_VBZ white_JJ ._.",
                "(TOP(S(SBAR(WHNP*) (S(NP*) (VP* (SBAR(WHADVP*) (S(NP*) (VP*)))))) (VP* (ADJP*)) *))",
                "What you see is white.",
                "you; it",
            ),
            (
                "I_PRP know_VBP when_WRB ,_, or_CC how_WRB ._.",
                "(TOP(S(NP*) (VP* (SBAR(WHADVP*)) * * (SBAR(WHADVP*))) *))",
                "I know, or how.",
                "I",
            ),
            # What belongs to a noun is no adverbial.
            (
                "The_DT day_NN before_IN we_PRP met_VBD was_VBD warm_JJ ._.",
                "(TOP(S(NP(NP* *) (SBAR* (S(NP*) (VP*)))) (VP* (ADJP*)) *))",
                "The day before we met was warm.",
                "The day before we met; we",
            ),
            # With function tags only these count.
            (
                "Now_RB that_IN it_PRP ends_VBZ ,_, who_WP knows_VBZ if_IN he_PRP stays_VBZ at_IN home_NN ?_.",
                "(TOP(SBARQ(SBAR-TMP(ADVP*) * (S(NP-SBJ*) (VP*))) * (WHNP-SBJ*) (SQ(VP* (SBAR* (S(NP-SBJ-2*) (VP* (PP-LOC* (NP*))))))) *))",
                "Who knows if he stays?",
                "it; who; he",
            ),
            ("In_IN time_NN ._.", "(TOP(PP* (NP*) *))", "none", "none"),
        ],
    )
    def test_syntax(self, text, bits, core, subjects):
        one = passage((text, bits))
        assert KINDS["syntax_core"].answer(one) == core
        assert KINDS["syntax_subjects"].answer(one) == subjects
        assert KINDS["count_subjects"].answer(one) == str(0 if subjects == "none" else subjects.count(";") + 1)

    def test_roles_in_parts_and_verbs_with_particles(self, tmp_path):
        text = re.sub(
            r"(\(ARG1\*)( +\(3\|\(12\)\n.*?)\* ( +-\n.*?)\*\)( +3\)\n.*)\(ARGM-TMP\*",
            r"(ARG1*)\2(C-V*)\3(C-ARG1*)\4(ARGM-TMP*",
            SAMPLE,
        )
        (document,) = read_documents([write(tmp_path, text)], Reading())
        (first, *_) = passages(document, 100)
        assert KINDS["srl_frames"].answer(first).startswith("opened old(The mayor of Lyon, her bridge); crossed")

    def test_nouns_are_no_verbs(self, tmp_path):
        (document,) = read_documents([write(tmp_path, SAMPLE.replace("smiled   VBD", "smile    NN "))], Reading())
        assert KINDS["count_verbs"].answer(next(passages(document, 100))) == "2"

    def test_an_entity_is_new_once(self, tmp_path):
        text = SAMPLE.replace(
            "crossed   VBD                   (VP*   cross   01   -   Anna   *",
            "Lyon      NNP                   (VP*   cross   01   -   Anna   (GPE*)",
        )
        (document,) = read_documents([write(tmp_path, text)], Reading())
        first = next(passages(document, 100))
        assert [KINDS[name].answer(first) for name in ("ner_list", "count_entities")] == ["Lyon (GPE)", "1"]
        assert KINDS["ner_sentences"].answer(first) == first.lines[0]
        (document,) = read_documents(
            [write(tmp_path, text.replace("Anna   (GPE*)   (V", "Anna   (ORG*)   (V"))], Reading()
        )
        assert KINDS["ner_list"].answer(next(passages(document, 100))) == "Lyon (GPE); Lyon (ORG)"

    def test_a_chain_of_pronouns_stays_as_it_is(self, tmp_path):
        text = re.sub(r"(DT .*)\(12\n", r"\1-\n", re.sub(r"12\)\n(.*open)", r"-\n\1", SAMPLE))
        (document,) = read_documents([write(tmp_path, text)], Reading())
        first = next(passages(document, 100))
        assert KINDS["coref_chains"].answer(first) == "her old bridge = it; her = she = she"
        assert KINDS["coref_anchor"].answer(first) == first.text

    def test_instructions_tell_the_tasks_apart(self):
        assert len({kind.instruction for kind in KINDS.values()}) == len(KINDS)
        assert {kind.cluster for kind in KINDS.values()} == {
            "coreference",
            "semantics",
            "syntax",
            "ner",
            "selection",
            "counting",
        }


class TestPassages:
    def test_whole_sentences_of_one_part(self, sample):
        cut = list(passages(sample, 100))
        assert [p.name for p in cut] == ["bn/own/00/own_0001/000/000", "bn/own/00/own_0001/001/000"]
        assert whole(sample).text == " ".join(p.text for p in cut)
        cut = list(passages(sample, 12))
        assert [p.text for p in cut][:2] == [
            "The mayor of Lyon opened her old bridge in May.",
            "When she crossed it, she smiled.",
        ]
        # Of a chain only what is in the passage: nothing is left here that "it" refers to.
        assert KINDS["coref_chains"].answer(cut[1]) == "she = she"
        assert [p.text for p in passages(sample, 1)] == [p.text for p in cut]

    def test_about_equally_long(self, tmp_path):
        """Eleven sentences of seven words are four passages of at most 24 words, none of them a short rest."""
        text, marker = SAMPLE.split("#begin document (bn/own/00/own_0001); part 001\n")[1], "\n#end"
        body = text.split(marker)[0]
        text = f"#begin document (bn/own/00/own_0001); part 001\n{(body + chr(10)) * 11}#end document\n"
        (document,) = read_documents([write(tmp_path, re.sub(r"\(12\)", "-", text))], Reading())
        assert [len(p.sentences) for p in passages(document, 24)] == [3, 3, 3, 2]
        assert [len(p.sentences) for p in passages(document, 55)] == [6, 5]

    @needs_pack
    @pytest.mark.parametrize("most", [40, 150, 1000])
    def test_lengths(self, most):
        for document in read_documents(sorted(PACK.rglob("000*_gold_conll")), Reading()):
            cut = list(passages(document, most))
            assert [s for p in cut for s in p.sentences] == list(document.parts[0].sentences)
            lengths = [sum(len(s.words) for s in p.sentences) for p in cut]
            assert all(n <= most or len(p.sentences) == 1 for n, p in zip(lengths, cut, strict=True))
            assert len(cut) <= -(-sum(lengths) // most) * 2


def folder_of(root, count, *, sides=("",), text=SAMPLE):
    for i in range(count):
        for side in sides:
            name = f"own_{side}{i:04}"
            write(
                root,
                text.replace("own_0001", name).replace("Lyon", f"City{i}{side}"),
                f"{side or 'all'}/bn/{name}.v4_gold_conll",
            )
    return root


class TestSource:
    def test_official_folders(self, tmp_path):
        source = open_any(f"conll2012:{folder_of(tmp_path, 5, sides=('train', 'development', 'test'))}")
        reading = Reading()
        clusters = source.clusters(reading)
        assert list(clusters) == list(KINDS)
        tasks = source.read(["ner_list", "count_words"], EVERYTHING, reading)
        assert sorted(e.targets[0] for e in tasks["ner_list"].train if e.targets[0] != "none") == [
            f"City{i}train (GPE)" for i in range(5)
        ]
        assert {e.targets[0] for e in tasks["ner_list"].test} == {"none", *(f"City{i}test (GPE)" for i in range(5))}
        assert (reading.read["ner_list"], reading.report()) == (30, [])
        example = tasks["count_words"].test[0]
        assert (example.task, example.cluster, example.options) == ("count_words", "counting", None)
        assert example.input.startswith("Document: ")

    def test_development_stands_in_for_test(self, tmp_path):
        tasks = Conll2012(folder_of(tmp_path, 3, sides=("train", "development"))).read(
            ["ner_list"], EVERYTHING, Reading()
        )
        assert sum("development" in e.input for e in tasks["ner_list"].test) == 3

    def test_joined_files(self, tmp_path):
        for side in ("train", "test"):
            documents = (SAMPLE.replace("own_0001", f"own_{side}{i}").replace("Lyon", f"City{side}") for i in range(3))
            write(tmp_path, "".join(documents), f"{side}.english.v4_gold_conll")
        write(tmp_path, "no English", "train.chinese.v4_gold_conll")
        task = Conll2012(tmp_path).read(["count_words"], EVERYTHING, Reading())["count_words"]
        for side, name in ((task.train, "Citytrain"), (task.test, "Citytest")):
            assert [e.input.count(name) for e in side if "City" in e.input] == [1, 1, 1]

    def test_files_beside_the_official_folders(self, tmp_path):
        folder_of(tmp_path, 2, sides=("train", "other"))
        with pytest.raises(
            LorajaxError,
            match=r"own_other0000\S+: is in none of the folders train, .*, but \S+ is; expected all or none",
        ):
            Conll2012(tmp_path).read(["count_words"], EVERYTHING, Reading())

    def test_sides_by_the_name_of_the_document(self, tmp_path):
        tasks = open_source(str(folder_of(tmp_path, 60))).read(list(KINDS), EVERYTHING, Reading())
        tested = {i for i in range(60) if side_of(f"bn/own/00/own_{i:04}") == "test"}
        assert 5 <= len(tested) <= 20
        for task in tasks.values():
            found = {int(n) for e in task.test for n in re.findall(r"City(\d+)", e.input)}
            assert found == tested
            assert {int(n) for e in task.train for n in re.findall(r"City(\d+)", e.input)} == set(range(60)) - tested

    def test_limits(self, tmp_path):
        """Which passages are kept depends on them alone: not on order, other tasks, or larger limits."""
        folder_of(tmp_path, 40)
        few = Conll2012(tmp_path).read(list(KINDS), Limits(7, 3), Reading())
        many = Conll2012(tmp_path).read(["ner_list"], Limits(20, 5), Reading())["ner_list"]
        assert {(len(t.train), len(t.test)) for t in few.values()} == {(7, 3)}
        assert few["ner_list"].train == many.train[:7]
        assert few["ner_list"].test == many.test[:3]
        assert len({tuple(e.input for e in t.train) for t in few.values()}) == 1
        for i, file in enumerate(sorted(tmp_path.rglob("*gold_conll"))):
            file.rename(file.with_name(f"{99 - i}.gold_conll"))
        assert Conll2012(tmp_path).read(["ner_list"], Limits(20, 5), Reading())["ner_list"] == many

    def test_a_missing_annotation_is_told(self, tmp_path):
        plain = re.sub(r"\(GPE\*\)|\(DATE\*\)", "*", re.sub(r"\(3\|\(12\)|\(?(12|3)\)?(?=\n)", "-", SAMPLE))
        folder_of(tmp_path, 20, text=plain)
        said = []
        reading = Reading(say=said.append)
        clusters = Conll2012(tmp_path).clusters(reading)
        assert not set(clusters) & {"coref_anchor", "coref_chains", "count_chains", "ner_list", "count_entities"}
        assert "no document has coreference; not there: coref_anchor, coref_chains, count_chains" in "\n".join(said)
        # In a folder where some documents have it, the passages of the others are left out.
        write(tmp_path, SAMPLE.replace("own_0001", "own_x"), "x.gold_conll")
        folder_of(tmp_path, 10, sides=("b",))
        clusters = Conll2012(tmp_path).clusters(reading)
        assert set(clusters) == set(KINDS)
        tasks = Conll2012(tmp_path).read(["ner_list", "count_words"], EVERYTHING, reading)
        assert reading.report() == ["task ner_list: of 62 rows read, 40 are of documents without entities: left out"]
        both = tasks["ner_list"].train + tasks["ner_list"].test
        assert {e.input for e in both} < {e.input for e in tasks["count_words"].train + tasks["count_words"].test}

    def test_nothing_on_one_side(self, tmp_path):
        folder_of(tmp_path, 2, sides=("train",))
        with pytest.raises(LorajaxError, match=r"task 'ner_list': no test rows \(and 4 on the other side\); folders"):
            Conll2012(tmp_path).read(["ner_list"], EVERYTHING, Reading())

    def test_other_folders(self, tmp_path):
        with pytest.raises(LorajaxError, match=r"--data conll2012:.*none: does not exist; expected a folder"):
            Conll2012(tmp_path / "none").clusters(Reading())
        with pytest.raises(LorajaxError, match=r"own\S+: is a file; expected a folder"):
            Conll2012(write(tmp_path)).clusters(Reading())
        write(tmp_path / "chinese")
        write(tmp_path / ".hidden")
        (tmp_path / "own_0001.v4_gold_conll").unlink()
        said = []
        with pytest.raises(LorajaxError, match="holds no .* file, in English"):
            Conll2012(tmp_path).clusters(Reading(say=said.append))
        assert "1 files named arabic or chinese are passed over" in said[0]

    def test_bad_documents(self, tmp_path):
        folder_of(tmp_path, 20)
        write(tmp_path, SAMPLE.replace("12)\n", "\n", 1).replace("own_0001", "own_bad"), "bad.gold_conll")
        with pytest.raises(LorajaxError, match=r"bad\.gold_conll:5: 12 columns; expected 13"):
            Conll2012(tmp_path).read(["ner_list"], EVERYTHING, Reading())
        reading = Reading(skip_bad_rows=1)
        task = Conll2012(tmp_path).read(["ner_list"], EVERYTHING, reading)["ner_list"]
        assert len(task.train) + len(task.test) == 40
        assert re.search(r"bad row passed over: .*bad\.gold_conll:5: 12 columns", reading.report()[0])


class TestSummaries:
    def records(self, folder, records):
        (folder / "summaries.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def test_whole_documents(self, tmp_path):
        folder_of(tmp_path, 12)
        assert "summary" not in Conll2012(tmp_path).clusters(Reading())
        name = "bn/own/00/own_{:04}"
        self.records(tmp_path, [{"document": name.format(i), "summary": f"Fog, {i}."} for i in range(1, 14)])
        reading = Reading()
        assert Conll2012(tmp_path).clusters(reading)["summary"] == "summary"
        task = Conll2012(tmp_path).read(["count_words", "summary"], EVERYTHING, reading)["summary"]
        examples = task.train + task.test
        assert sorted(e.targets[0] for e in examples) == sorted(f"Fog, {i}." for i in range(1, 12))
        assert all(e.input.endswith("smiled. Fog hid (it does).") for e in examples)
        assert {i for i in range(1, 12) if side_of(name.format(i)) == "test"} == {
            int(e.targets[0][5:-1]) for e in task.test
        }
        assert reading.report() == [
            "task summary: of 14 rows read, 1 are documents without a summary, 2 are summaries of documents that were not "
            "read: left out"
        ]

    @pytest.mark.parametrize(
        ("record", "message"),
        [
            ({"document": "a"}, r"summaries\.jsonl:2: 'summary' must be a non-empty text, found None"),
            ({"document": 1, "summary": "x"}, r"summaries\.jsonl:2: 'document' must be a non-empty text, found 1"),
            (
                {"document": "a", "summary": "y"},
                r"summaries\.jsonl:2: document 'a' has a summary already, at .*jsonl:1",
            ),
        ],
    )
    def test_bad_records(self, tmp_path, record, message):
        self.records(folder_of(tmp_path, 2), [{"document": "a", "summary": "x"}, record])
        with pytest.raises(LorajaxError, match=message):
            Conll2012(tmp_path).read(["summary"], EVERYTHING, Reading())


@pytest.fixture(scope="module")
def tasks():
    reading = Reading()
    source = Conll2012(PACK)
    return source.read(list(source.clusters(reading)), EVERYTHING, reading)


@needs_pack
class TestRealFiles:
    def test_the_same_passages_on_the_same_sides(self, tasks):
        assert list(tasks) == list(KINDS)
        every = {side: {e.input for e in getattr(tasks["count_words"], side)} for side in ("train", "test")}
        assert not every["train"] & every["test"]
        assert len(every["train"]) > 200
        orders = {}
        for name, task in tasks.items():
            for side in every:
                inputs = tuple(e.input for e in getattr(task, side))
                assert set(inputs) <= every[side]
                assert orders.setdefault((KINDS[name].needs, side), inputs) == inputs
        assert len(orders) == 10
        # 80 documents have a parse, and 40 others coreference.
        coreference, parse = ({e.input for e in tasks[n].train} for n in ("coref_chains", "syntax_core"))
        assert not coreference & parse
        assert coreference | parse == every["train"]

    def test_answers_are_of_their_passages(self, tasks):
        def letters(text):
            return re.sub(r"\W", "", text).lower()

        def is_subsequence(short, long):
            rest = iter(long)
            return all(letter in rest for letter in short)

        for name, task in tasks.items():
            for example in (*task.train, *task.test):
                text, answer = example.input.removeprefix("Document: "), example.targets[0]
                if name in ("syntax_core", "ner_sentences") or KINDS[name].cluster == "selection":
                    assert answer == "none" or is_subsequence(letters(answer), letters(text))
                elif name == "syntax_subjects" and answer != "none":
                    assert all(letters(subject) in letters(text) for subject in answer.split("; "))
                elif name == "ner_list" and answer != "none":
                    assert all(
                        letters(re.sub(r" \([A-Z]+\)$", "", item)) in letters(text) for item in answer.split("; ")
                    )
                elif KINDS[name].cluster == "counting":
                    assert int(answer) >= 0
        for task in tasks.values():
            none = sum(e.targets == ("none",) for e in task.train)
            assert none < 0.2 * len(task.train)
            assert task.cluster not in CLUSTERS or task.cluster == "coreference"
