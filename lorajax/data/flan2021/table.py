"""FLAN 2021 as data: its tasks, the data sets they are made of, and the twelve clusters.

Names and counts: the public code (google-research/FLAN, `flan/task_splits.py`) has 69 tasks; the paper (Wei et al.,
ICLR 2022, arXiv 2109.01652, figure 3) has 62 data sets in 12 clusters. The two differ in this: the code keeps apart the
parts of ARC, ANLI (three rounds), MNLI and SQuAD, which the paper counts once each (5 fewer), and it has true casing
and word segmentation, which the figure has not (2 fewer). The cluster of every task is the one of the figure.
"""

from __future__ import annotations

from typing import NamedTuple

#: Training examples of a task at most, in FLAN: its files hold no more.
TRAIN_CAP = 30_000


class FlanTask(NamedTuple):
    """A task of the public code. `absent` says why the public files do not have it; empty where they do."""

    name: str
    cluster: str
    dataset: str
    paper: bool = True
    absent: str = ""


def _tasks(cluster: str, names: str) -> list[FlanTask]:
    """Tasks of one cluster, each the only one of the data set of its name."""
    return [FlanTask(name, cluster, name) for name in names.split()]


TABLE: tuple[FlanTask, ...] = (
    FlanTask("anli_r1", "nli", "anli"),
    FlanTask("anli_r2", "nli", "anli"),
    FlanTask("anli_r3", "nli", "anli"),
    FlanTask("mnli_matched", "nli", "mnli"),
    FlanTask("mnli_mismatched", "nli", "mnli"),
    *_tasks("nli", "cb rte qnli wnli snli"),
    *_tasks("commonsense", "copa hellaswag piqa story_cloze"),
    *_tasks("sentiment", "imdb_reviews sentiment140 sst2 yelp_polarity_reviews"),
    *_tasks("paraphrase", "glue_mrpc glue_qqp paws_wiki stsb"),
    FlanTask("arc_challenge", "closed_book_qa", "arc"),
    FlanTask("arc_easy", "closed_book_qa", "arc"),
    *_tasks("closed_book_qa", "natural_questions trivia_qa"),
    *_tasks("struct_to_text", "common_gen dart e2e_nlg web_nlg_en"),
    *_tasks("reading_comprehension", "bool_q drop multirc openbookqa"),
    FlanTask("squad_v1", "reading_comprehension", "squad"),
    FlanTask("squad_v2", "reading_comprehension", "squad"),
    *_tasks("rc_commonsense", "cosmos_qa record"),
    *_tasks("coreference", "definite_pronoun_resolution wsc"),
    FlanTask("winogrande", "coreference", "winogrande", absent="its source did not work when they were made"),
    *_tasks("misc", "coqa quac wic trec cola math_dataset fix_punct"),
    FlanTask("true_case", "misc", "true_case", paper=False),
    FlanTask("word_segment", "misc", "word_segment", paper=False),
    *_tasks("summarization", "aeslc ag_news_subset cnn_dailymail gigaword multi_news samsum wiki_lingua_english_en"),
    *_tasks("summarization", "opinion_abstracts_rotten_tomatoes opinion_abstracts_idebate"),
    FlanTask("newsroom", "summarization", "newsroom", absent="its source has to be downloaded by hand"),
    FlanTask("xsum", "summarization", "xsum", absent="its source has to be downloaded by hand"),
    *_tasks("translation", "para_crawl_enes wmt14_enfr wmt16_translate_csen wmt16_translate_deen"),
    *_tasks("translation", "wmt16_translate_fien wmt16_translate_roen wmt16_translate_ruen wmt16_translate_tren"),
)

#: The same, by name.
TASKS: dict[str, FlanTask] = {task.name: task for task in TABLE}
