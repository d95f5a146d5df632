"""Tokenizers: from a Hugging Face folder, or rebuilt from the metadata of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from lorajax.errors import LorajaxError
from lorajax.models.gguf import GGUFFile

if TYPE_CHECKING:
    # Imported where it is used: transformers takes seconds to import, and `--help` needs none of it.
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

#: GGUF token types that are not ordinary text.
CONTROL, USER_DEFINED = 3, 4

#: Llama 3 splits text by this expression before merging bytes.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder.

    Raises:
      LorajaxError: none there, or one that transformers cannot read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds
        raise LorajaxError(f"{folder}: no readable tokenizer (expected tokenizer.json): {error}") from error


def gguf_tokenizer(file: GGUFFile) -> PreTrainedTokenizerFast:
    """The tokenizer in a GGUF file: byte-level BPE (`gpt2`), or SentencePiece BPE (`llama`).

    Raises:
      LorajaxError: another kind of tokenizer or of splitting.
    """
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = file.get("tokenizer.ggml.tokens")
    kind = file.get("tokenizer.ggml.model")
    if tokens is None or kind not in ("gpt2", "llama"):
        raise LorajaxError(f"{file.path}: tokenizer model {kind!r} is not supported; expected 'gpt2' or 'llama'")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = _byte_level(file, vocabulary) if kind == "gpt2" else _sentence_piece(file, vocabulary)
    types = file.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    backend.add_special_tokens(
        [AddedToken(t, special=True) for t, k in zip(tokens, types, strict=True) if k == CONTROL]
    )
    backend.add_tokens(
        [AddedToken(t, normalized=False) for t, k in zip(tokens, types, strict=True) if k == USER_DEFINED]
    )

    def token(name: str) -> str | None:
        number = file.get(f"tokenizer.ggml.{name}_token_id")
        return None if number is None else tokens[number]

    bos = token("bos")
    if bos and file.get("tokenizer.ggml.add_bos_token", kind == "llama"):
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary[bos])]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=token("eos"),
        unk_token=token("unknown"),
        pad_token=token("padding"),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = file.get("tokenizer.chat_template")
    return tokenizer


def _byte_level(file: GGUFFile, vocabulary: dict[str, int]) -> Tokenizer:
    merges = [tuple(merge.split(" ", 1)) for merge in file.get("tokenizer.ggml.merges") or ()]
    split = file.get("tokenizer.ggml.pre", "default")
    whole = split == "llama-bpe"
    backend = Tokenizer(BPE(vocabulary, merges, ignore_merges=whole))
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    by_split = {
        "gpt-2": plain,
        "default": plain,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain]),
        "llama-bpe": pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
    }
    if split not in by_split:
        known = ", ".join(sorted(by_split))
        raise LorajaxError(f"{file.path}: pre-tokenizer {split!r} is not supported; expected one of {known}")
    backend.pre_tokenizer = by_split[split]
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentence_piece(file: GGUFFile, vocabulary: dict[str, int]) -> Tokenizer:
    # SentencePiece merges the neighbouring pair whose union has the best score: the pairs of every token, in the order
    # of the union's score, are the same thing written as BPE merges.
    scores = file.get("tokenizer.ggml.scores")
    merges = []
    for token, number in vocabulary.items():
        pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
        merges += [
            (-scores[number], vocabulary[left], vocabulary[right], (left, right))
            for left, right in pairs
            if left in vocabulary and right in vocabulary
        ]
    ordered = [pair for *_, pair in sorted(merges)]
    unknown = file.get("tokenizer.ggml.tokens")[file.get("tokenizer.ggml.unknown_token_id", 0)]
    backend = Tokenizer(BPE(vocabulary, ordered, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = [normalizers.Prepend("▁")] if file.get("tokenizer.ggml.add_space_prefix", True) else []
    backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    return backend
