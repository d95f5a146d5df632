"""Scores of answers, against Google's rouge_score, and a table filled in by the definition."""

import random

import pytest

from lorajax.data import builtin
from lorajax.scores import exact_match, normalize, rouge_l, strict_match, words

ALPHABETS = ("ab", "abcdefghij ", "aB9 -.'é\n\tß中")


def random_text(rng: random.Random) -> str:
    letters = rng.choice(ALPHABETS)
    return " ".join("".join(rng.choices(letters, k=rng.randint(1, 3))) for _ in range(rng.randint(0, 90)))


def real_texts() -> list[str]:
    names = ("film_reviews", "number_words", "capital_city")
    examples = [example for name in names for example in builtin.load(name, n_train=12, n_test=8).test]
    return [text for example in examples for text in (example.input, *example.targets)]


class TestRougeL:
    def test_is_that_of_rouge_score(self):
        scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=False)
        rng = random.Random(0)
        texts = [random_text(rng) for _ in range(60)] + real_texts()
        found = []
        for _ in range(600):
            prediction, *references = rng.choices(texts, k=rng.randint(2, 4))
            want = scorer.score_multi(references, prediction)["rougeL"].fmeasure
            found.append(rouge_l(prediction, references))
            assert found[-1] == pytest.approx(want, abs=1e-12)
        assert len({round(value, 3) for value in found}) > 50

    def test_is_the_definition(self):
        def f_measure(a: list[str], b: list[str]) -> float:
            table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
            for i, x in enumerate(a):
                for j, y in enumerate(b):
                    table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
            common = table[-1][-1]
            if not common:
                return 0.0
            precision, recall = common / len(a), common / len(b)
            return 2 * precision * recall / (precision + recall)

        rng = random.Random(1)
        for _ in range(200):
            a, b = random_text(rng), random_text(rng)
            assert rouge_l(a, [b]) == pytest.approx(f_measure(words(a), words(b)), abs=1e-12)

    @pytest.mark.parametrize(
        ("prediction", "references", "score"),
        [
            ("police kill the gunman", ["police killed the gunman"], 3 / 4),  # Lin (2004), section 3.1
            ("the gunman kill police", ["police killed the gunman"], 2 / 4),
            ("The cat, sat!", ["the cat sat"], 1),
            ("cats sat", ["cat sat"], 1 / 2),  # no stemming
            ("one two", ["three", "two one two"], 4 / 5),
            ("", ["", "a"], 0),
            ("北京", ["北京"], 0),
        ],
    )
    def test_by_hand(self, prediction, references, score):
        assert rouge_l(prediction, references) == pytest.approx(score)


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "strict"),
    [
        (" Paris\n", ["Paris"], 1, 1),
        ("The U.S.A.!", ["usa"], 1, 0),
        ("an  apple a day", ["apple day"], 1, 0),
        ("theatre", ["atre"], 0, 0),  # articles are words
        ("another", ["other"], 0, 0),
        ("well-known", ["well known"], 0, 0),  # punctuation goes, and leaves no space
        ("北京", ["Beijing", "北京"], 1, 1),
        ("paris", ["Rome", "Paris"], 1, 0),
        ("", ["the"], 1, 0),
        ("Rome", ["Paris"], 0, 0),
    ],
)
def test_matches(prediction, references, exact, strict):
    assert exact_match(prediction, references) == exact
    assert strict_match(prediction, references) == strict


def test_normalize_keeps_words_in_order():
    assert normalize('  "A Tale of (the) Two  Cities," he said.') == "tale of two cities he said"


@pytest.mark.parametrize("score", [exact_match, strict_match, rouge_l])
def test_without_references(score):
    with pytest.raises(ValueError, match="empty"):
        score("text", [])
