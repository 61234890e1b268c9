"""Which blocks of a row a window shows as they are, and which as gists.

Shape legend: B rows, T tokens of a row, K block_tokens, N = T / K blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidValueError
from megacontext.training.windows import Answer, Window
from megacontext.values import number, whole_number

__all__ = ["UNJOINED", "GistCut", "Joined", "choose_open", "choose_variants", "predicted"]

Joined = tuple[int, int]
"""How many gists of level 2 a window begins with, and of how many blocks each is made."""

UNJOINED: Joined = (0, 1)


@dataclass(frozen=True, kw_only=True)
class GistCut:
    """Which blocks of a row stay open.

    shapes: (block_tokens, gist_width) pairs, one drawn per batch; num_tail: blocks open at the end; num_open: blocks
    open elsewhere, among them, with probability ``open_answers`` for each asked fact, the blocks that state it;
    joins: (number of level-2 gists, blocks in each) pairs, one drawn per batch; joined blocks are never open;
    variants: in how many windows each row is shown, with other blocks open, so that what these save can be compared;
    far_weight: what the tokens of a word weigh that only closed blocks hold, in rows that ask nothing;
    spans_only: there is no window at all, every block is read back from its gist (``num_tail`` is 0 then).
    """

    shapes: Sequence[tuple[int, int]]
    num_tail: int
    num_open: int = 0
    open_answers: float = 0.0
    joins: Sequence[Joined] = (UNJOINED,)
    variants: int = 1
    far_weight: float = 1.0
    spans_only: bool = False

    def __post_init__(self) -> None:
        number("far_weight", self.far_weight, above=0)
        whole_number("variants", self.variants, least=1)
        if self.variants > 1 and (not self.num_open or any(width != 1 for _, width in self.shapes)):
            raise InvalidValueError(
                f"variants is {self.variants}, but num_open is {self.num_open} and shapes are {list(self.shapes)}: "
                "windows of one row differ in open blocks, and a lens compares gists of one vector; give num_open at "
                "least 1 and shapes of width 1, or variants 1"
            )
        if self.spans_only and (self.num_tail or self.num_open or self.joins != (UNJOINED,)):
            raise InvalidValueError(
                f"spans_only shows no window, but num_tail is {self.num_tail}, num_open {self.num_open} and joins "
                f"{list(self.joins)}; leave num_tail at 0 and the others out, or spans_only"
            )
        if (
            not self.shapes
            or (self.num_tail < 1 and not self.spans_only)
            or self.num_open < 0
            or not 0 <= self.open_answers <= 1
        ):
            raise InvalidValueError(
                f"a cut with shapes {list(self.shapes)}, {self.num_tail} tail and {self.num_open} open blocks and "
                f"open_answers {self.open_answers} cannot be made: give at least one shape and one tail block, no "
                "negative count, and a probability"
            )
        if not self.joins or any(number < 0 or size < 1 for number, size in self.joins):
            raise InvalidValueError(
                f"joins {list(self.joins)} cannot be made: give pairs of a number of gists (0 for none) and of how "
                "many blocks each is made, at least 1"
            )


def choose_open(
    row: Window, cut: GistCut, *, block_tokens: int, random: Random, joined: Joined = UNJOINED
) -> npt.NDArray[np.bool_]:
    """Which of the row's N blocks stay open: always ``num_tail + num_open`` of them, none of those that are joined."""
    num_blocks = len(row.tokens_T) // block_tokens
    num_before, num_joined = num_blocks - cut.num_tail, joined[0] * joined[1]
    if len(row.tokens_T) % block_tokens or num_before < cut.num_open + num_joined:
        raise InvalidValueError(
            f"a row of {len(row.tokens_T)} tokens cannot be cut into blocks of {block_tokens} with {cut.num_tail} "
            f"tail, {cut.num_open} open and {num_joined} joined ones; use a length that is a multiple of the block and "
            "has room for them"
        )
    wanted = [
        block
        for answer in row.answers
        if random.random() < cut.open_answers
        for block in _stated_in(answer, block_tokens)
        if num_joined <= block < num_before
    ]
    others = random.sample(range(num_joined, num_before), num_before - num_joined)
    chosen = list(dict.fromkeys([*wanted, *others]))[: cut.num_open]
    is_open_N = np.zeros(num_blocks, dtype=np.bool_)
    is_open_N[[*chosen, *range(num_before, num_blocks)]] = True
    return is_open_N


def choose_variants(
    row: Window, cut: GistCut, *, block_tokens: int, random: Random, joined: Joined = UNJOINED
) -> npt.NDArray[np.bool_]:
    """Which of the row's N blocks stay open in each of its V windows [V, N]. No block before the tail is open in all of
    them: each has a gist in one, and is compared with it."""
    is_open_VN = np.stack(
        [choose_open(row, cut, block_tokens=block_tokens, random=random, joined=joined) for _ in range(cut.variants)]
    )
    if cut.variants == 1:
        return is_open_VN
    num_joined, num_before = joined[0] * joined[1], is_open_VN.shape[1] - cut.num_tail
    before_VC = is_open_VN[:, num_joined:num_before]  # a view
    assert before_VC.shape[1] >= 2 * cut.num_open, "variants cannot differ enough"
    for block in np.flatnonzero(before_VC.all(0)):
        free = np.flatnonzero(~before_VC[0] & ~before_VC[-1])
        before_VC[-1, block], before_VC[-1, random.choice(free.tolist())] = False, True
    return is_open_VN


def _stated_in(answer: Answer, block_tokens: int) -> list[int]:
    """The blocks that the answer's statements touch."""
    return [
        block
        for start, stop in answer.evidence
        for block in range(start // block_tokens, (stop - 1) // block_tokens + 1)
    ]


def predicted(is_open_BN: npt.NDArray[np.bool_], *, block_tokens: int) -> npt.NDArray[np.bool_]:
    """Positions [B, T] whose next token is predicted: those in open blocks, and the last one before an open block."""
    is_open_BT = np.repeat(is_open_BN, block_tokens, axis=1)
    is_open_BT[:, block_tokens - 1 : -1 : block_tokens] |= is_open_BN[:, 1:]
    return is_open_BT
