"""The reader of `*_gold_conll` files: on a sample in the official layout, on the real files, and on what is broken."""

import collections
import json
import re
from pathlib import Path

import pytest

from lorajax.data.conll2012.columns import labelled, references
from lorajax.data.conll2012.document import Labelled, Mention
from lorajax.data.conll2012.reader import annotations_there, read_documents
from lorajax.data.conll2012.tree import Node, read_tree
from lorajax.data.reading import Reading
from lorajax.errors import LorajaxError

PACK = Path(__file__).parents[3] / "shared" / "data" / "conll2012"

#: Two parts, each with chains of its own, and the padding of the official release.
SAMPLE = """\
#begin document (bn/own/00/own_0001); part 000
bn/own/00/own_0001   0    0      The    DT   (TOP(S(NP(NP*   -      -    -   Anna   *         (ARG0*       (12
bn/own/00/own_0001   0    1    mayor    NN              *)   -      -    1   Anna   *              *         -
bn/own/00/own_0001   0    2       of    IN            (PP*   -      -    -   Anna   *              *         -
bn/own/00/own_0001   0    3     Lyon   NNP         (NP*)))   -      -    -   Anna   (GPE*)        *)       12)
bn/own/00/own_0001   0    4   opened   VBD            (VP*   open   01   3   Anna   *           (V*)         -
bn/own/00/own_0001   0    5      her  PRP$            (NP*   -      -    -   Anna   *         (ARG1*   (3|(12)
bn/own/00/own_0001   0    6      old    JJ               *   -      -    -   Anna   *              *         -
bn/own/00/own_0001   0    7   bridge    NN              *)   bridge -    1   Anna   *             *)        3)
bn/own/00/own_0001   0    8       in    IN            (PP*   -      -    -   Anna   *     (ARGM-TMP*         -
bn/own/00/own_0001   0    9      May   NNP         (NP*)))   -      -    -   Anna   (DATE*)       *)         -
bn/own/00/own_0001   0   10        .     .             *))   -      -    -   Anna   *              *         -

bn/own/00/own_0001   0   0      When   WRB   (TOP(S(SBAR(WHADVP*)   -       -    -   Anna   *   *          (ARGM-TMP*   -
bn/own/00/own_0001   0   1       she   PRP                (S(NP*)   -       -    -   Anna   *   (ARG0*)             *   (12)
bn/own/00/own_0001   0   2   crossed   VBD                   (VP*   cross   01   -   Anna   *   (V*)                *   -
bn/own/00/own_0001   0   3        it   PRP               (NP*))))   -       -    -   Anna   *   (ARG1*)            *)   (3)
bn/own/00/own_0001   0   4         ,     ,                      *   -       -    -   Anna   *   *                   *   -
bn/own/00/own_0001   0   5       she   PRP                  (NP*)   -       -    -   Anna   *   *             (ARG0*)   (12)
bn/own/00/own_0001   0   6    smiled   VBD                  (VP*)   smile   01   -   Anna   *   *                (V*)   -
bn/own/00/own_0001   0   7         .     .                    *))   -       -    -   Anna   *   *                   *   -

#end document
#begin document (bn/own/00/own_0001); part 001
bn/own/00/own_0001   1   0   Fog   NN    (TOP(S(NP*)   -   -   -   -   *   (12)
bn/own/00/own_0001   1   1   hid   VBD         (VP*    -   -   -   -   *   -
bn/own/00/own_0001   1   2   -LRB- -LRB-       (PRN*   -   -   -   -   *   -
bn/own/00/own_0001   1   3   it    PRP        (S(NP*)  -   -   -   -   *   (12)
bn/own/00/own_0001   1   4   does  VBZ        (VP*))   -   -   -   -   *   -
bn/own/00/own_0001   1   5   -RRB- -RRB-           *)  -   -   -   -   *   -
bn/own/00/own_0001   1   6   .     .            *)))   -   -   -   -   *   -

#end document
"""


def write(folder, text=SAMPLE, name="own_0001.v4_gold_conll"):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def read(folder, text=SAMPLE, skip=0):
    return list(read_documents([write(folder, text)], Reading(skip)))


def at(word):
    return f"f:{word + 1}"


class TestColumns:
    def test_spans_nest(self):
        column = ["(A*", "(B(C*)", "*)", "(V*)", "*)", "*"]
        spans = [Labelled("A", 0, 5), Labelled("B", 1, 3), Labelled("C", 1, 2), Labelled("V", 3, 4)]
        assert labelled(column, "argument", at) == tuple(spans)
        assert labelled(["(ARGM-TMP(C-ARG1*", "*))"], "argument", at) == (("ARGM-TMP", 0, 2), ("C-ARG1", 0, 2))
        assert labelled(["-", "-"], "named entity", at) == ()

    @pytest.mark.parametrize(
        ("column", "mentions"),
        [
            (["(3|(12", "-", "12)", "3)"], [(3, 0, 4), (12, 0, 3)]),
            (["(3", "(5", "5)|3)"], [(3, 0, 3), (5, 1, 3)]),
            (["(1", "(2", "1)", "2)"], [(1, 0, 3), (2, 1, 4)]),  # chains that cross
            (["(1|(1", "1)", "(7)|1)"], [(1, 0, 3), (1, 0, 2), (7, 2, 3)]),  # one inside another of its chain
            (["(12)", "12)|(12", "12)"], None),
            (["(4", "4)|(4", "4)"], [(4, 0, 2), (4, 1, 3)]),
        ],
    )
    def test_references(self, column, mentions):
        if mentions is None:
            with pytest.raises(LorajaxError, match="f:2: coreference '12.*closes chain 12, which is not open"):
                references(column, at)
        else:
            assert references(column, at) == mentions

    def test_tree(self):
        tree = read_tree(["(TOP(S(NP-SBJ-1*)", "(VP*", "(NP=2*)))", "*)"], at)
        noun, verb = Node("NP-SBJ-1", 0, 1, (0,)), Node("VP", 1, 3, (1, Node("NP=2", 2, 3, (2,))))
        assert tree == Node("TOP", 0, 4, (Node("S", 0, 3, (noun, verb)), 3))
        assert (noun.category, set(noun.functions), verb.children[1].category) == ("NP", {"SBJ"}, "NP")
        assert [node.label for node in tree.nodes()] == ["TOP", "S", "NP-SBJ-1", "VP", "NP=2"]
        assert read_tree(["-", "-"], at) is read_tree(["*", "*"], at) is None

    @pytest.mark.parametrize(
        "bits", [["(TOP*)", "*"], ["*", "(TOP*)"], ["(S*)", "(S*)"], ["(A" * 500 + "*" + ")" * 500]]
    )
    def test_what_is_no_tree(self, bits):
        with pytest.raises(LorajaxError, match=r"f:[12]: parse bit"):
            read_tree(bits, at)


class TestSample:
    def test_annotation(self, tmp_path):
        (document,) = read(tmp_path)
        assert (document.name, document.line, document.file.name) == ("bn/own/00/own_0001", 1, "own_0001.v4_gold_conll")
        assert document.annotations == {"parse", "predicates", "entities", "coreference"}
        first, second = document.parts[0].sentences
        assert first.words[:4] == ("The", "mayor", "of", "Lyon")
        assert (first.line, second.line, first.tags[5]) == (2, 14, "PRP$")
        assert first.entities == (Labelled("GPE", 3, 4), Labelled("DATE", 9, 10))
        (opened,) = first.predicates
        assert (opened.word, opened.lemma, opened.frameset) == (4, "open", "01")
        assert opened.arguments == (("ARG0", 0, 4), ("V", 4, 5), ("ARG1", 5, 8), ("ARGM-TMP", 8, 10))
        assert [p.lemma for p in second.predicates] == ["cross", "smile"]
        assert second.predicates[1].arguments[0] == Labelled("ARGM-TMP", 0, 4)

    def test_chains_belong_to_their_part(self, tmp_path):
        (document,) = read(tmp_path)
        assert [part.number for part in document.parts] == [0, 1]
        mayor, bridge = document.parts[0].chains
        assert (mayor.number, bridge.number, [c.number for c in document.parts[1].chains]) == (12, 3, [12])
        assert mayor.mentions == (Mention(0, 0, 4), Mention(0, 5, 6), Mention(1, 1, 2), Mention(1, 5, 6))
        assert bridge.mentions == (Mention(0, 5, 8), Mention(1, 3, 4))
        assert document.parts[1].chains[0].mentions == (Mention(0, 0, 1), Mention(0, 3, 4))

    def test_white_space_and_comments(self, tmp_path):
        (expected,) = read(tmp_path)
        text = re.sub(" +", "\t", SAMPLE.replace("#begin document", "#begin+document").replace("; part", ";+part"))
        text = text.replace("+", " ").replace("#end\t", "#end ").replace("\n", "\r\n")
        text = "# a comment\r\n\r\n\r\n" + text.replace("\r\n\r\n", "\r\n  \r\n# another\r\n\r\n")
        (document,) = read(tmp_path, text.removesuffix("\r\n"))
        assert [[s.words for s in part.sentences] for part in document.parts] == [
            [s.words for s in part.sentences] for part in expected.parts
        ]
        assert [part.chains for part in document.parts] == [part.chains for part in expected.parts]

    def test_a_word_may_hold_a_no_break_space(self, tmp_path):
        (document,) = read(tmp_path, SAMPLE.replace("bridge    NN", "old\u00a0bridge\u2003x    NN"))
        assert document.parts[0].sentences[0].words[7] == "old\u00a0bridge\u2003x"

    def test_a_predicate_column_without_v_belongs_to_the_word_with_the_frameset(self, tmp_path):
        (document,) = read(tmp_path, SAMPLE.replace("(V*)         -", "   *         -"))
        assert document.parts[0].sentences[0].predicates[0].word == 4
        with pytest.raises(LorajaxError, match=r"conll:2: column 12 has no \(V\*\); expected its predicate"):
            read(tmp_path, SAMPLE.replace("(V*)         -", "   *         -").replace("open   01", "open    -"))

    def test_one_document_at_a_time(self, tmp_path):
        files = [write(tmp_path), write(tmp_path, "not read yet", "b.v4_gold_conll")]
        documents = read_documents(files, Reading())
        assert next(documents).name == "bn/own/00/own_0001"
        with pytest.raises(LorajaxError, match=r"b\.v4_gold_conll:1: a row outside of a document"):
            next(documents)

    def test_annotations_there(self, tmp_path):
        bare = re.sub(r"\(GPE\*\)|\(DATE\*\)", "*", re.sub(r"\(3\|\(12\)|\(?(12|3)\)?(?=\n)", "-", SAMPLE))
        full, bare = write(tmp_path), write(tmp_path, bare, "bare.gold_conll")
        assert annotations_there([bare]) == {"parse", "predicates"}
        assert annotations_there([bare, full]) == {"parse", "predicates", "entities", "coreference"}
        (document,) = read_documents([bare], Reading())
        assert document.annotations == {"parse", "predicates"}


BROKEN = [
    # What is replaced by what, and the message.
    ("*)       12)\n", "*)\n", r":5: 12 columns; expected 13, as in the first row of its sentence"),
    ("(ARG0*       (12\n", "\n", r":2: 11 columns; expected 12 or more"),
    ("   0    2       of", "   0    3       of", r":4: word number '3'; expected 2"),
    (
        "bn/own/00/own_0001   0    2 ",
        "bn/own/00/own_0002   0    2 ",
        r":4: a row of document 'bn/own/00/own_0002', part 0",
    ),
    ("bn/own/00/own_0001   0    2 ", "bn/own/00/own_0001   1    2 ", r":4: a row of .*, part 1; expected .*, part 0"),
    (
        "(NP*)))   -      -    -   Anna   (GPE",
        "(NP*))    -      -    -   Anna   (GPE",
        r":2: parse bit \(TOP\* is not closed",
    ),
    (
        "(NP*)))   -      -    -   Anna   (DATE",
        "(NP*)))))) -     -    -   Anna   (DATE",
        r":11: parse bit .* closes 6 brackets, but 5 are open",
    ),
    ("(V*) ", "(V* ", r":6: argument \(V\* is not closed by the end"),
    ("(ARG1* ", "ARG1*) ", r":7: argument 'ARG1\*\)'; expected brackets around one star"),
    ("(GPE*) ", "(GPE* ", r":5: named entity \(GPE\* is not closed"),
    ("(GPE*) ", "*) ", r":5: named entity '\*\)' closes 1 brackets, but 0 are open"),
    ("     3)\n", "      -\n", r":7: coreference \(3 is not closed by the end of its sentence"),
    ("     3)\n", "     4)\n", r":9: coreference '4\)' closes chain 4, which is not open"),
    ("     3)\n", "     a)\n", r":9: coreference 'a\)'; expected - or parts such as"),
    ("     3)\n", "      3\n", r":9: coreference '3'; expected"),
    (
        "part 001",
        "part one",
        r":24: '#begin document \(bn/own/00/own_0001\); part one'; expected '#begin document \(NAME\)",
    ),
    ("part 001", "part 000", r":24: part 000 of document 'bn/own/00/own_0001' is there twice"),
    ("#end document\n#begin", "#begin", r":1: document .* has no '#end document': another document begins at line 23"),
    ("#begin document (bn/own/00/own_0001); part 000\n", "", r":1: a row outside of a document; expected"),
    ("part 000\n", "part 000\n#end document\n", r":1: document 'bn/own/00/own_0001' has no rows"),
    ("Lyon", "Ly\udcffon", r":5: not UTF-8: invalid start byte"),
]


class TestBroken:
    @pytest.mark.parametrize(("old", "new", "message"), BROKEN)
    def test_file_line_and_expectation(self, tmp_path, old, new, message):
        assert SAMPLE.count(old) >= 1
        text = SAMPLE.replace(old, new, 1).encode("utf-8", "surrogateescape")
        with pytest.raises(LorajaxError, match=rf"own_0001\.v4_gold_conll{message}"):
            read(tmp_path, text)

    def test_a_file_that_ends_too_early(self, tmp_path):
        with pytest.raises(
            LorajaxError, match=r"conll:24: document .* has no '#end document': the file ends after line 27"
        ):
            read(tmp_path, SAMPLE[: SAMPLE.index("-LRB-")])

    @pytest.mark.parametrize("text", ["", "\n \n", "# nothing\n"])
    def test_an_empty_file_is_never_passed_over(self, tmp_path, text):
        with pytest.raises(LorajaxError, match=r"conll: holds no document; expected '#begin"):
            read(tmp_path, text, skip=9)

    def test_a_document_that_is_there_twice(self, tmp_path):
        files = [write(tmp_path), write(tmp_path, name="b.v4_gold_conll")]
        with pytest.raises(
            LorajaxError, match=r"b\.v4_gold_conll:1: document .* was read before, at .*own_0001\S*:1; expected"
        ):
            list(read_documents(files, Reading()))

    @pytest.mark.parametrize(("old", "new", "message"), BROKEN)
    def test_skipped_documents(self, tmp_path, old, new, message):
        """All parts of a bad document are passed over, and the documents around it are read."""
        bad = SAMPLE.replace(old, new, 1).encode("utf-8", "surrogateescape")
        before, after = (SAMPLE.replace("own_0001", f"own_{i}").encode() for i in (8, 9))
        reading = Reading(skip_bad_rows=3)
        names = [d.name[-5:] for d in read_documents([write(tmp_path, before + bad + after)], reading)]
        assert names[0] == "own_8"
        assert names[-1] == "own_9"
        assert reading.bad_rows
        # Without a #begin that can be read, a part is of no document; otherwise none of the document's parts is read.
        assert len(names) == 2 or "outside of a document" in reading.bad_rows[0] or "part one" in reading.bad_rows[0]
        with pytest.raises(LorajaxError):
            list(read_documents([write(tmp_path, before + bad + after)], Reading()))

    def test_no_such_file(self, tmp_path):
        with pytest.raises(LorajaxError, match="none: could not be read: No such file"):
            list(read_documents([tmp_path / "none"], Reading()))


def rows(file):
    """The sentences of a real file as rows of columns; independent of the reader."""
    blocks = re.split(r"\n\s*\n", "\n".join(line for line in file.read_text("utf-8").split("\n") if line[:1] != "#"))
    return [[line.split(" ") for line in block.split("\n")] for block in blocks if block.strip()]


def bits(spans, length):
    """A bracket column, written back from its spans."""
    column = ["*"] * length
    for _, end in ((s.start, s.end) for s in spans):
        column[end - 1] += ")"
    for span in reversed(spans):
        column[span.start] = f"({span.label}{column[span.start]}"
    return column


def spans_of(tree):
    return [Labelled(node.label, node.start, node.end) for node in tree.nodes()]


@pytest.fixture(scope="module")
def documents():
    files = sorted(PACK.rglob("*_gold_conll"))
    found = list(read_documents(files, Reading()))
    assert len(found) == len(files) == 120
    return {document.name: document for document in found}


@pytest.mark.skipif(not PACK.is_dir(), reason=f"needs the project's data pack at {PACK}")
class TestRealFiles:
    def test_counts_of_the_manifest(self, documents):
        items = json.loads((PACK / "manifest.json").read_text())["items"]
        assert [item["id"] for item in items] == sorted(documents)
        for item in items:
            (part,) = documents[item["id"]].parts
            assert documents[item["id"]].file == PACK / item["file"]
            found = {
                "sentences": len(part.sentences),
                "tokens": sum(len(s.words) for s in part.sentences),
                "predicates": sum(len(s.predicates) for s in part.sentences),
                "entities": sum(len(s.entities) for s in part.sentences),
                "coref_mentions": sum(len(chain.mentions) for chain in part.chains),
                "coref_chains": len(part.chains),
            }
            assert found == {"coref_chains": 0} | {key: item[key] for key in found if key in item}

    def test_counts_by_regular_expressions(self, documents):
        total = collections.Counter()
        for document in documents.values():
            sentences = rows(document.file)
            columns = [cell for sentence in sentences for row in sentence for cell in row[11:-1]]
            opened = re.findall(r"\(([^(*]+)", " ".join(columns))
            predicates = [p for s in document.parts[0].sentences for p in s.predicates]
            assert sum(len(p.arguments) for p in predicates) == len(opened)
            arguments = sum(part.label != "V" for p in predicates for part in p.arguments)
            assert arguments == len(opened) - opened.count("V")
            numbers = [(n, r) for n, s in enumerate(sentences) for row in s for r in re.findall(r"\((\d+)", row[-1])]
            assert len(document.parts[0].chains) == len({number for _, number in numbers})
            constituents = sum(row[5].count("(") for sentence in sentences for row in sentence)
            assert sum(len(spans_of(s.tree)) for s in document.parts[0].sentences) == constituents
            total.update(arguments=arguments, chains=len(document.parts[0].chains), constituents=constituents)
        assert min(total.values()) > 500

    def test_columns_written_back(self, documents):
        for document in documents.values():
            (part,) = document.parts
            references = collections.defaultdict(set)
            for chain in part.chains:
                for sentence, start, end in chain.mentions:
                    if end == start + 1:
                        references[sentence, start].add(f"({chain.number})")
                    else:
                        references[sentence, start].add(f"({chain.number}")
                        references[sentence, end - 1].add(f"{chain.number})")
            for number, (sentence, real) in enumerate(zip(part.sentences, rows(document.file), strict=True)):
                columns = list(zip(*real, strict=True))
                length = len(real)
                assert (sentence.words, sentence.tags) == (columns[3], columns[4])
                assert bits(spans_of(sentence.tree), length) == list(columns[5])
                assert bits(sentence.entities, length) == list(columns[10])
                for predicate, column in zip(sentence.predicates, columns[11:-1], strict=True):
                    assert bits(predicate.arguments, length) == list(column)
                    assert (columns[6][predicate.word], columns[7][predicate.word]) == (
                        predicate.lemma,
                        predicate.frameset,
                    )
                for word, cell in enumerate(columns[-1]):
                    assert references.pop((number, word), {"-"}) == set(cell.split("|"))
            assert not references
