"""Levels, spans, parents and children of the gist tree.

Level 0 is tokens. Node ``i`` of level ``l`` stands for tokens ``[i * K**l, (i + 1) * K**l)`` with K =
``block_tokens``. There is no top level: a history of N tokens has as many levels as hold a complete node.
"""

from __future__ import annotations

from dataclasses import dataclass

from megacontext.values import whole_number

__all__ = ["MAX_BLOCK_TOKENS", "MIN_BLOCK_TOKENS", "SEGMENT_TARGET_TOKENS", "Node", "TreeGeometry"]

MIN_BLOCK_TOKENS = 8
MAX_BLOCK_TOKENS = 128
SEGMENT_TARGET_TOKENS = 65_536


@dataclass(frozen=True, order=True)
class Node:
    """Node ``index`` of ``level``."""

    level: int
    index: int


@dataclass(frozen=True)
class TreeGeometry:
    """Arithmetic of one branching factor.

    >>> tree = TreeGeometry(block_tokens=32)
    >>> tree.span(Node(2, 1))
    (1024, 2048)
    >>> tree.parent(Node(1, 33))
    Node(level=2, index=1)
    """

    block_tokens: int = 32

    def __post_init__(self) -> None:
        block_tokens = whole_number(
            "block_tokens", self.block_tokens, least=MIN_BLOCK_TOKENS, most=MAX_BLOCK_TOKENS, of="tokens", usual=32
        )
        object.__setattr__(self, "block_tokens", block_tokens)

    @property
    def segment_tokens(self) -> int:
        """Tokens of one sealed segment: whole subtrees, as near below SEGMENT_TARGET_TOKENS as K allows."""
        subtree = self.block_tokens
        while subtree * self.block_tokens <= SEGMENT_TARGET_TOKENS:
            subtree *= self.block_tokens
        return SEGMENT_TARGET_TOKENS // subtree * subtree

    def width(self, level: int) -> int:
        """Tokens below one node of ``level``."""
        return int(self.block_tokens**level)

    def span(self, node: Node) -> tuple[int, int]:
        """Token range ``[start, stop)`` of a node."""
        width = self.width(node.level)
        return node.index * width, (node.index + 1) * width

    def parent(self, node: Node) -> Node:
        return Node(node.level + 1, node.index // self.block_tokens)

    def ancestor(self, node: Node, level: int) -> Node:
        """The node of ``level`` (>= the node's own) that contains ``node``."""
        return Node(level, node.index // self.block_tokens ** (level - node.level))

    def children(self, node: Node) -> range:
        """Indices of a node's children on the level below."""
        return range(node.index * self.block_tokens, (node.index + 1) * self.block_tokens)

    def num_nodes(self, level: int, num_tokens: int) -> int:
        """Complete nodes of ``level`` in a history of ``num_tokens``."""
        return num_tokens // self.width(level)

    def num_levels(self, num_tokens: int) -> int:
        """Levels that hold at least one complete node, level 0 included; 0 for an empty history."""
        level = 0
        while self.width(level) <= num_tokens:
            level += 1
        return level
