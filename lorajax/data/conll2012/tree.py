"""Constituents: the tree of a sentence, from its parse bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from lorajax.data.conll2012.columns import Where, brackets
from lorajax.errors import LorajaxError

#: Constituents inside each other. Real trees stay below 100; what is deeper would exhaust Python's stack.
DEEPEST = 300


@dataclasses.dataclass(frozen=True)
class Node:
    """A constituent: its label with function tags where there are some (`NP-SBJ`), and its words `[start, end)`.

    A child is a constituent or the number of a word.
    """

    label: str
    start: int
    end: int
    children: tuple[Node | int, ...]

    @property
    def category(self) -> str:
        """The label without function tags and indices."""
        return self.label.split("-")[0].split("=")[0] or self.label

    @property
    def functions(self) -> frozenset[str]:
        """Function tags, such as `SBJ`; the official release of CoNLL-2012 has none."""
        return frozenset(part for part in self.label.split("=")[0].split("-")[1:] if part and not part.isdigit())

    def nodes(self) -> Iterator[Node]:
        """This constituent and all below it, each before its own children."""
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.nodes()


def read_tree(bits: Sequence[str], where: Where) -> Node | None:
    """The tree of a sentence's parse bits; None where they are all `-` or all `*`.

    Raises:
      LorajaxError: as `labelled`, or words outside of the one tree.
    """
    if set(bits) in ({"-"}, {"*"}):
        return None
    opened: list[tuple[str, int, list[Node | int]]] = []
    root: Node | None = None
    for word, (labels, closed) in enumerate(brackets(bits, "parse bit", where)):
        if root or not (opened or labels):
            raise LorajaxError(f"{where(word)}: parse bit {bits[word]!r} is outside of the sentence's tree")
        opened += [(label, word, []) for label in labels]
        if len(opened) > DEEPEST:
            raise LorajaxError(
                f"{where(word)}: parse bits with {len(opened)} open brackets; expected {DEEPEST} at most"
            )
        opened[-1][2].append(word)
        for _ in range(closed):
            label, start, children = opened.pop()
            node = Node(label, start, word + 1, tuple(children))
            if opened:
                opened[-1][2].append(node)
            else:
                root = node
    return root
