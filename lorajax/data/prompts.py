"""From records to tokens: the prompt formats, and what happens to text that is too long."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from lorajax.data.classes import Classes
from lorajax.data.task import Example
from lorajax.errors import LorajaxError

#: In front of a chat template: one that writes the day into the prompt would give other tokens tomorrow, and a study
#: that is gone on with would be another one. The date is the one Llama 3.1's template falls back to.
NO_CLOCK = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"

Template = Literal["plain", "chat", "llama2"]


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """How a record becomes a prompt, and how long it may get."""

    template: Template = "plain"
    """`plain` (ends in "Answer:"), `chat` (the checkpoint's own chat template) or `llama2` ([INST] ... [/INST])."""
    system: str = ""
    """System prompt for `chat` and `llama2`; none by default (a chat template may add its own)."""
    max_length: int = 512
    """Tokens of prompt and answer together. A longer prompt loses its middle, never its end."""
    max_answer: int = 128
    """Tokens of the answer; a longer one is cut at its end."""

    def __post_init__(self):
        if self.template not in get_args(Template):
            raise LorajaxError(f"--template must be one of {', '.join(get_args(Template))}, found {self.template!r}")
        if self.max_answer < 1 or self.max_length < self.max_answer + 8:
            raise LorajaxError(
                f"--max-length must leave 8 tokens or more for the prompt; found {self.max_length} "
                f"with an answer of up to {self.max_answer}"
            )


class Row(NamedTuple):
    """An example for a decoder, which writes its answer: token ids of both, laid out one after the other."""

    prompt: np.ndarray
    answer: np.ndarray

    @property
    def tokens(self) -> np.ndarray:
        """All that is laid out."""
        return np.concatenate([self.prompt, self.answer])

    @property
    def places(self) -> np.ndarray:
        """Where each part of the answer is predicted, counted from the first token."""
        return np.arange(len(self.prompt) - 1, len(self.prompt) - 1 + len(self.answer))

    @property
    def lengths(self) -> tuple[int, int]:
        """How many tokens are laid out, and how many parts of an answer are predicted."""
        return len(self.prompt) + len(self.answer), len(self.answer)


class ReadRow(Row):
    """An example for an encoder, off which its answer is read, at the first token: `answer` is one class, `[1]`."""

    @property
    def tokens(self) -> np.ndarray:
        return self.prompt

    @property
    def places(self) -> np.ndarray:
        return np.zeros(1, np.int64)

    @property
    def lengths(self) -> tuple[int, int]:
        return len(self.prompt), 1


@dataclasses.dataclass(frozen=True)
class Tokenized:
    """Prompts and answers as token ids, and how many of each had to be cut.

    With `classes`, each answer is the number of one of them, for an encoder.
    """

    prompts: tuple[np.ndarray, ...]
    answers: tuple[np.ndarray, ...]
    cut_prompts: int = 0
    cut_answers: int = 0
    classes: Classes | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def rows(self) -> list[Row]:
        """The examples, one by one."""
        kind = Row if self.classes is None else ReadRow
        return [kind(prompt, answer) for prompt, answer in zip(self.prompts, self.answers, strict=True)]


def first(examples: Tokenized, most: int) -> Tokenized:
    """The first `most` of `examples`; how many were cut is told of all of them."""
    return dataclasses.replace(examples, prompts=examples.prompts[:most], answers=examples.answers[:most])


def pick(examples: Tokenized, numbers: Iterable[int]) -> Tokenized:
    """Those of `examples` with these numbers; how many were cut is told of all of them."""
    chosen = list(numbers)
    prompts, answers = (tuple(own[i] for i in chosen) for own in (examples.prompts, examples.answers))
    return dataclasses.replace(examples, prompts=prompts, answers=answers)


def join(sets: Sequence[Tokenized]) -> Tokenized:
    """All examples of `sets`, one or more of one kind, in their order; nothing is told of cuts."""
    prompts, answers = (tuple(ids for s in sets for ids in getattr(s, name)) for name in ("prompts", "answers"))
    return Tokenized(prompts, answers, classes=sets[0].classes)


def body(example: Example) -> str:
    """Instruction, input and options of one record, as text."""
    parts = [example.definition, example.input]
    if example.options:
        parts.append("OPTIONS:\n" + "\n".join(f"- {option}" for option in example.options))
    return "\n".join(part for part in parts if part)


def prompt_ids(example: Example, tokenizer: Any, config: PromptConfig) -> list[int]:
    """Token ids of the whole prompt, before any cut. The checkpoint's beginning-of-sequence token comes first if it
    was trained with one."""
    if config.template == "chat":
        if not tokenizer.chat_template:
            raise LorajaxError("--template chat: the checkpoint's tokenizer has no chat template; use plain or llama2")
        messages = [{"role": "system", "content": config.system}] if config.system else []
        messages.append({"role": "user", "content": body(example)})
        template = NO_CLOCK + tokenizer.get_chat_template()
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=True, tokenize=False
        )
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    if config.template == "llama2":
        system = f"<<SYS>>\n{config.system}\n<</SYS>>\n\n" if config.system else ""
        text = f"[INST] {system}{body(example)} [/INST]"
    else:
        text = f"{body(example)}\nAnswer:"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [tokenizer.bos_token_id, *ids] if begins_with_bos(tokenizer) else ids


def begins_with_bos(tokenizer: Any) -> bool:
    """Whether the checkpoint's tokenizer puts a beginning-of-sequence token in front of text.

    What it does is what counts: its attribute `add_bos_token` is False for tokenizers that add one by a post-processor.
    """
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def tokenize(
    examples: Iterable[Example], tokenizer: Any, config: PromptConfig, classes: Classes | None = None
) -> Tokenized:
    """Prompts and answers of `examples` within the lengths of `config`; what is cut is counted.

    The answer is tokenised apart from the prompt, so the prompt's tokens do not depend on it; it ends with the
    end-of-sequence token, which is learnt too. With `classes`, the examples are for an encoder, see below.
    """
    if classes is not None:
        return tokenize_for_encoder(examples, tokenizer, config, classes)
    examples = list(examples)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    space = "" if config.template == "chat" else " "
    prompts, answers, cut_prompts, cut_answers = [], [], 0, 0
    for example in examples:
        answer = tokenizer(space + example.targets[0], add_special_tokens=False)["input_ids"] + end
        cut_answers += len(answer) > config.max_answer
        answer = answer[: config.max_answer]
        prompt = prompt_ids(example, tokenizer, config)
        # The same room whatever the answer: a prompt's cut must not tell about its label.
        room = config.max_length - config.max_answer
        cut_prompts += len(prompt) > room
        prompts.append(np.asarray(drop_middle(prompt, room), np.int32))
        answers.append(np.asarray(answer, np.int32))
    return Tokenized(tuple(prompts), tuple(answers), cut_prompts, cut_answers)


def tokenize_for_encoder(
    examples: Iterable[Example], tokenizer: Any, config: PromptConfig, classes: Classes
) -> Tokenized:
    """The inputs as `encoder_prompts`, and the classes of their targets.

    Raises:
      LorajaxError: a target that is none of the classes, or as `encoder_prompts`.
    """
    examples = list(examples)
    answers = tuple(np.asarray([classes.number(example)], np.int32) for example in examples)
    prompts, cut = encoder_prompts(examples, tokenizer, config)
    return Tokenized(prompts, answers, cut, classes=classes)


def encoder_prompts(
    examples: Iterable[Example], tokenizer: Any, config: PromptConfig
) -> tuple[tuple[np.ndarray, ...], int]:
    """The inputs alone as `<s> text </s>`, without instruction and template, and how many were cut.

    Texts that are longer than `config.max_length` lose their middle. A pair of texts is one, as the record has it.

    Raises:
      LorajaxError: a tokenizer without `<s>`, `</s>` and a token for padding.
    """
    begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    if begin is None or end is None or pad is None:
        raise LorajaxError("the tokenizer of an encoder must have tokens for begin, end and padding (<s>, </s>, <pad>)")
    prompts, cut = [], 0
    for example in examples:
        # A text may spell out the token that stands for padding.
        ids = [i for i in tokenizer(example.input, add_special_tokens=False)["input_ids"] if i != pad]
        cut += len(ids) + 2 > config.max_length
        prompts.append(np.asarray([begin, *drop_middle(ids, config.max_length - 2), end], np.int32))
    return tuple(prompts), cut


def drop_middle(ids: Sequence[int], length: int) -> list[int]:
    """`ids` without their middle when longer than `length`: the last token, which is what is measured, always stays."""
    if len(ids) <= length:
        return list(ids)
    head = length // 2
    return [*ids[:head], *ids[len(ids) - (length - head) :]]
