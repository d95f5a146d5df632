"""Text from the words of a treebank: escapes undone, and spaces only where a writer would put them.

This is approximate. Nothing in the format says where the original had a space, so words are joined by rules for English
(closing punctuation and clitics such as n't stand close to the word before, opening brackets and quotes to the one
after, split hyphens to both). Words that a treebank splits without a mark (can not, gon na) stay split.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ESCAPES = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
QUOTES = {"``": '"', "''": '"', "`": "'"}

_ESCAPE = re.compile("|".join(map(re.escape, ESCAPES)))
# OntoNotes' broadcast texts escape a full stop, a question mark and a dash that stand alone.
_SLASH = re.compile(r"/[.?-]")
_CLOSING = re.compile(r"[.,;:?!%…]+|[)\]}]+|[’”]")
_OPENING = re.compile(r"[(\[{]+|[‘“]")
_CLITIC = re.compile(r"(?:['’](?:s|re|ve|ll|d|m)|n['’]t)", re.IGNORECASE)
_CURRENCY = re.compile(r"[$£€#]|[A-Z]{1,3}\$")
_JOINING = re.compile(r"[-–/‑]")


def unescape(word: str) -> str:
    """The word as it would be written: `-LRB-` is a bracket, also inside a word."""
    if _SLASH.fullmatch(word):
        return word[1:]
    return QUOTES.get(word) or _ESCAPE.sub(lambda found: ESCAPES[found[0]], word)


def detokenize(words: Sequence[str], tags: Sequence[str]) -> str:
    """`words`, with their part-of-speech tags, as a line of text."""
    pieces: list[str] = []
    close_to_next, quoted, last = True, False, ""
    for raw, tag in zip(words, tags, strict=True):
        word = unescape(raw)
        opens, closes = bool(_OPENING.fullmatch(word)), bool(_CLOSING.fullmatch(word))
        if word in ('"', "'") and tag != "POS":
            # A tag or the old spelling says which side of a quotation this is; without either, sides alternate.
            opens = "``" in (raw, tag) or raw == "`" or ("''" not in (raw, tag) and not quoted)
            closes, quoted = not opens, opens
        joins = bool(_JOINING.fullmatch(word)) and tag in ("HYPH", "SYM")
        amount = bool(_CURRENCY.fullmatch(last)) and word[:1].isdigit()
        close = closes or joins or amount or tag == "POS" or bool(_CLITIC.fullmatch(word))
        pieces += [word] if close or close_to_next else [" ", word]
        close_to_next, last = opens or joins, word
    return "".join(pieces)
