"""From records to tokens: the prompt formats, and what happens to text that is too long."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from lorajax.data.task import Example
from lorajax.errors import LorajaxError

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


@dataclasses.dataclass(frozen=True)
class Tokenized:
    """Prompts and answers as token ids, and how many of each had to be cut."""

    prompts: tuple[np.ndarray, ...]
    answers: tuple[np.ndarray, ...]
    cut_prompts: int = 0
    cut_answers: int = 0

    def __len__(self) -> int:
        return len(self.prompts)


def first(examples: Tokenized, most: int) -> Tokenized:
    """The first `most` of `examples`; how many were cut is told of all of them."""
    return dataclasses.replace(examples, prompts=examples.prompts[:most], answers=examples.answers[:most])


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
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
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


def tokenize(examples: Iterable[Example], tokenizer: Any, config: PromptConfig) -> Tokenized:
    """Prompts and answers of `examples` within the lengths of `config`; what is cut is counted.

    The answer is tokenised apart from the prompt, so the prompt's tokens do not depend on it; it ends with the
    end-of-sequence token, which is learnt too.
    """
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


def drop_middle(ids: Sequence[int], length: int) -> list[int]:
    """`ids` without their middle when longer than `length`: the last token, which is what is measured, always stays."""
    if len(ids) <= length:
        return list(ids)
    head = length // 2
    return [*ids[:head], *ids[len(ids) - (length - head) :]]
