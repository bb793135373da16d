"""A dispute about withheld bytes, move by move: nodes eight levels down, the one that differs, and so on to a chunk.

A game is about one vector without sums (a model, a state or a group sum). The node in question has `height` levels
below it and is number `index` of its level; the first one is the top of the tree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from chainfl.encoding.chunk_tree import Tree, TreeShape
from chainfl.errors import PayloadError

LEVELS = 8
"""How many levels an answer goes down."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """The challenger's move. child: which of the nodes answered. siblings: from the node up to the one in question."""

    child: int
    node: bytes
    siblings: tuple[bytes, ...]


def levels_below(height: int) -> int:
    """How many levels the next answer goes down: eight, or what is left. At 0 the chunk is answered instead."""
    return min(height, LEVELS)


def nodes_below(tree: Tree, height: int, index: int) -> bytes:
    """The answer: all nodes `levels_below` the one in question, 32 bytes each, from left to right."""
    levels = levels_below(height)
    first = index << levels
    return b"".join(tree.node(height - levels, place)[0] for place in range(first, first + (1 << levels)))


def differing_child(tree: Tree, height: int, index: int, nodes: bytes) -> int | None:
    """Which of the nodes answered is the first that is not ours. None if all are: then the posted root was ours, too.

    tree: of the vector as it should be. Raises PayloadError for an answer of another length.
    """
    ours = nodes_below(tree, height, index)
    if len(nodes) != len(ours):
        raise PayloadError(f"the answer has {len(nodes)} bytes, not {len(ours)}", expected=len(ours))
    pairs = enumerate(zip(_split(ours), _split(nodes), strict=True))
    return next((child for child, (own, theirs) in pairs if own != theirs), None)


def child_towards(chunk_index: int, height: int) -> int:
    """Which of the nodes answered covers a chunk, for a challenger who needs that one opened."""
    levels = levels_below(height)
    return (chunk_index >> (height - levels)) & ((1 << levels) - 1)


def pointer(nodes: bytes, child: int) -> Pointer:
    """The move that points at one of the nodes answered. Raises PayloadError if there is no such node."""
    row = _split(nodes)
    if not 0 <= child < len(row):
        raise PayloadError(f"there is no node {child} of {len(row)}", child=child)
    node, place, siblings = row[child], child, []
    while len(row) > 1:
        siblings.append(row[place ^ 1])
        row = [_node(*pair) for pair in zip(row[0::2], row[1::2], strict=True)]
        place >>= 1
    return Pointer(child, node, tuple(siblings))


def opening_from_answers(answers: Sequence[bytes], chunk_index: int, chunk: bytes, shape: TreeShape) -> bytes:
    """The packed opening of the chunk that a game brought to light, from its answers, first to last.

    Raises PayloadError if they do not lead from the top to a chunk.
    """
    height, path = shape.depth, list[bytes]()
    for nodes in answers:
        path = [*pointer(nodes, child_towards(chunk_index, height)).siblings, *path]
        height -= levels_below(height)
    if height or len(path) != shape.depth or len(chunk) != shape.chunk_params * shape.width:
        raise PayloadError("the answers do not lead to a chunk", height=height)
    return chunk + b"".join(path)


def _split(nodes: bytes) -> list[bytes]:
    return [nodes[at : at + 32] for at in range(0, len(nodes), 32)]


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
