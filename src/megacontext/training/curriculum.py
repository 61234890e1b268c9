"""What to show when: stages of batch mixtures, each left when the model answers well enough, not when time is up."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from megacontext.errors import InvalidValueError
from megacontext.training.babi_rows import babi_row
from megacontext.training.cuts import cut_row
from megacontext.training.far_words import closed_words
from megacontext.training.gist_cuts import GistCut, choose_variants, predicted
from megacontext.training.mixed import MixedWindows, mixed_windows
from megacontext.training.moments import Moment, moments_of
from megacontext.training.recall import Asking
from megacontext.training.rows import (
    SPREAD_BLOCKS,
    aligned_row,
    dense_puzzle_row,
    dense_row,
    plain_row,
    puzzle_row,
    quotes_row,
    recall_row,
    strewn_row,
)
from megacontext.training.windows import TextSource, Window
from megacontext.values import number, whole_number

__all__ = ["ROWS", "Batch", "BatchKind", "Stage", "batch_of", "draw_batch"]

RowMaker = Callable[[TextSource, Random, int], Window]

ROWS: dict[str, RowMaker] = {
    "plain": plain_row,
    "dense": dense_row,
    "dense_code": lambda source, random, length: dense_row(source, random, length, Asking(key="code")),
    "aligned": aligned_row,
    "aligned_code": lambda source, random, length: aligned_row(source, random, length, Asking(key="code")),
    "spread": partial(aligned_row, num_blocks=SPREAD_BLOCKS),
    "spread_code": partial(aligned_row, asking=Asking(key="code"), num_blocks=SPREAD_BLOCKS),
    "strewn": strewn_row,
    "strewn_code": partial(strewn_row, asking=Asking(key="code")),
    "quotes": quotes_row,
    "recall": recall_row,
    "dense_puzzles": dense_puzzle_row,
    "puzzles": puzzle_row,
    "babi": babi_row,
    "cut_recall": cut_row,
    "cut_plain": lambda source, random, length: cut_row(source, random, length, recall=False),
}
MOST_ROWS, LONGEST_ROW = 1 << 16, 1 << 20  # a batch is drawn as a whole, in memory
ASK_NOTHING = ("plain", "quotes", "cut_plain")


@dataclass(frozen=True, kw_only=True)
class BatchKind:
    """A batch shape and which rows fill it.

    `share` of the stage's batches, `rows` x `length` positions, `mix` row kind -> probability; `gists`: which blocks of
    the rows show as gists, none of them if it is left out.
    """

    name: str
    share: float
    rows: int
    length: int
    mix: Mapping[str, float]
    gists: GistCut | None = None

    def __post_init__(self) -> None:
        where = f"batch {self.name!r}: "
        number(f"{where}share", self.share, above=0)
        whole_number(f"{where}rows", self.rows, least=1, most=MOST_ROWS)
        whole_number(f"{where}length", self.length, least=2, most=LONGEST_ROW)
        for row_kind, probability in self.mix.items():
            if row_kind not in ROWS:
                raise InvalidValueError(f"{where}unknown row kind {row_kind!r} in mix; known: {', '.join(ROWS)}")
            number(f"{where}mix {row_kind}", probability, least=0)
        if sum(self.mix.values()) <= 0:
            raise InvalidValueError(f"{where}mix is empty or all zero; give one of {', '.join(ROWS)} a probability")
        if self.gists is not None and self.rows % self.gists.variants:
            raise InvalidValueError(
                f"{where}rows is {self.rows}; with {self.gists.variants} variants of each row choose a multiple of "
                f"{self.gists.variants}"
            )
        for block_tokens, gist_width in () if self.gists is None else self.gists.shapes:
            whole_number(f"{where}block_tokens of a shape", block_tokens, least=2)
            whole_number(f"{where}gist_width of a shape", gist_width, least=1, most=block_tokens)
            assert self.gists is not None
            num_shown = self.gists.num_tail + self.gists.num_open
            if self.length % block_tokens or self.length // block_tokens <= num_shown:
                raise InvalidValueError(
                    f"{where}length is {self.length}; choose a multiple of block_tokens ({block_tokens}) of more than "
                    f"{num_shown} blocks (num_tail and num_open), so that one is left for a gist"
                )
            num_far = self.length // block_tokens - self.gists.num_tail
            num_free = min(num_far - number * size for number, size in self.gists.joins)
            if num_free < self.gists.num_open:
                raise InvalidValueError(
                    f"{where}joins {list(self.gists.joins)} and num_open ({self.gists.num_open}) need "
                    f"{num_far - num_free + self.gists.num_open} blocks of {block_tokens} tokens before the tail, but "
                    f"there are {num_far}; join or open fewer, or choose longer rows"
                )
            if self.gists.variants > 1 and num_free < 2 * self.gists.num_open:
                raise InvalidValueError(
                    f"{where}num_open is {self.gists.num_open}, but variants open at most half of the {num_free} "
                    f"blocks of {block_tokens} tokens that are neither in the tail nor joined; give num_open at most "
                    f"{num_free // 2}"
                )

    @property
    def asks(self) -> bool:
        """Whether any of its rows has answers, which a gate can look at."""
        is_read = self.gists is None or not self.gists.spans_only
        return is_read and any(probability and name not in ASK_NOTHING for name, probability in self.mix.items())

    @property
    def num_variants(self) -> int:
        """Windows of each row."""
        return 1 if self.gists is None else self.gists.variants

    @property
    def num_drawn(self) -> int:
        """Rows that are drawn for a batch."""
        return self.rows // self.num_variants


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A mixture of batches, left after `min_steps` once the gate's answers cost less than `max_answer_nll` nats.

    The gate is the mean over the last `gate_batches` batches of kind `gate`. A stage without gate is left by steps
    alone; the last stage never ends before the run does.
    """

    name: str
    batches: tuple[BatchKind, ...]
    min_steps: int = 0
    gate: str | None = None
    max_answer_nll: float = 0.2
    gate_batches: int = 12

    def __post_init__(self) -> None:
        where = f"stage {self.name!r}: "
        names = [batch.name for batch in self.batches]
        if not names:
            raise InvalidValueError(f"{where}batches is empty; give at least one")
        for name in names:
            if names.count(name) > 1:
                raise InvalidValueError(
                    f"{where}{names.count(name)} batches are called {name!r}; give each its own name"
                )
        if self.gate is not None and self.gate not in names:
            raise InvalidValueError(f"{where}gate is {self.gate!r}; choose one of its batches: {', '.join(names)}")
        if self.gate is not None and not self.batches[names.index(self.gate)].asks:
            raise InvalidValueError(
                f"{where}gate is {self.gate!r}, whose rows ask nothing, so the stage would never end; choose a batch "
                "with answers, or leave the gate out"
            )
        whole_number(f"{where}min_steps", self.min_steps)
        whole_number(f"{where}gate_batches", self.gate_batches, least=1)
        number(f"{where}max_answer_nll", self.max_answer_nll, above=0)

    def is_done(self, steps_in_stage: int, gate_nlls: list[float]) -> bool:
        """Whether the next step belongs to the next stage."""
        if steps_in_stage < self.min_steps:
            return False
        if self.gate is None:
            return True
        recent = gate_nlls[-self.gate_batches :]
        return len(recent) == self.gate_batches and sum(recent) / len(recent) < self.max_answer_nll


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of one shape: ids and targets int64 [B, T], weights float32 [B, T], and what each row is.

    `mixed`: the windows that show them, if they show gists; weights are zero where those predict nothing. Rows that
    have variants stand there once for each, one after the other; `moments`: of each such row, when a lens is asked;
    `is_answer_BT`: which positions predict answers, where their weights do not say so (above 1).
    """

    kind: BatchKind
    row_kinds: tuple[str, ...]
    ids_BT: Tensor  # noqa: N815 - shape suffix
    targets_BT: Tensor  # noqa: N815 - shape suffix
    weights_BT: Tensor  # noqa: N815 - shape suffix
    mixed: MixedWindows | None = None
    moments: tuple[tuple[Moment, ...], ...] = ()
    is_answer_BT: Tensor | None = None  # noqa: N815 - shape suffix

    @property
    def answers_BT(self) -> Tensor:  # noqa: N802 - shape suffix
        """Positions bool [B, T] that predict answers; what else has a weight is text."""
        is_answer_BT = self.weights_BT > 1 if self.is_answer_BT is None else self.is_answer_BT
        return is_answer_BT & (self.weights_BT > 0)

    def to(self, device: torch.device) -> Batch:
        """The same there."""
        return replace(
            self,
            ids_BT=self.ids_BT.to(device),
            targets_BT=self.targets_BT.to(device),
            weights_BT=self.weights_BT.to(device),
            is_answer_BT=None if self.is_answer_BT is None else self.is_answer_BT.to(device),
            mixed=self.mixed and self.mixed.to(device),
        )

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, targets and weights."""
        return self.ids_BT, self.targets_BT, self.weights_BT


def draw_batch(
    source: TextSource, stage: Stage, *, seed: int, step: int, rank: int = 0, part: tuple[int, int] = (0, 1)
) -> Batch:
    """The batch of a step: a function of the stage, the seed, the step, the process and the part alone, so that a
    resumed run repeats it. All processes of a team get the same kind at a step, each with rows of its own.

    part: which of how many micro-batches of the step. Their kinds lie evenly over the shares, so that each step has as
    many of a kind as its share is worth, rounded up or down.
    """
    index, count = part
    random = Random(f"{seed}/{step}")
    if count == 1:
        kind = random.choices(stage.batches, [batch.share for batch in stage.batches])[0]
    else:
        kind = _spread_kind(stage, (random.random() + index) / count)
    if rank or index:
        random = Random(f"{seed}/{step}/{rank}" + (f"/{index}" if index else ""))
    row_kinds = tuple(random.choices(list(kind.mix), list(kind.mix.values()), k=kind.num_drawn))
    rows = [ROWS[row_kind](source, random, kind.length) for row_kind in row_kinds]
    return batch_of(kind, row_kinds, rows, random, source.pieces_V)


def _spread_kind(stage: Stage, place: float) -> BatchKind:
    """The kind that stands at a place in [0, 1) when the shares of a stage are laid side by side."""
    sums = list(accumulate(batch.share for batch in stage.batches))
    return stage.batches[min(bisect_right(sums, place * sums[-1]), len(sums) - 1)]


def batch_of(
    kind: BatchKind, row_kinds: tuple[str, ...], rows: Sequence[Window], random: Random, pieces_V: Sequence[bytes] = ()
) -> Batch:
    """Rows as a batch, some of their blocks as gists if the kind says so, each in as many windows as it says. pieces_V:
    the text of each token, where words weigh more."""
    asked: list[tuple[Moment, ...]] = []
    variants, drawn = kind.num_variants, rows
    rows = [row for row in drawn for _ in range(variants)]
    row_kinds = tuple(name for name in row_kinds for _ in range(variants))
    weights_BT = np.stack([row.weights_T for row in rows])
    is_answer_BT = weights_BT > 1  # before words weigh more
    mixed = None
    if kind.gists is not None:
        block_tokens, gist_width = random.choice(list(kind.gists.shapes))
        joined = random.choice(list(kind.gists.joins))
        is_open_BN = np.concatenate(
            [choose_variants(row, kind.gists, block_tokens=block_tokens, random=random, joined=joined) for row in drawn]
        )
        if variants > 1:
            tail_tokens = kind.gists.num_tail * block_tokens
            asked = [tuple(moments_of(row, tail_tokens=tail_tokens, block_tokens=block_tokens)) for row in drawn]
        if not kind.gists.spans_only:
            weights_BT = weights_BT * predicted(is_open_BN, block_tokens=block_tokens)
        if kind.gists.far_weight != 1 and pieces_V:
            for row, is_open_N, weights_T in zip(rows, is_open_BN, weights_BT, strict=True):
                if not row.answers:
                    weights_T *= _far_weights(row, np.repeat(is_open_N, block_tokens), kind.gists.far_weight, pieces_V)
        mixed = mixed_windows(is_open_BN, block_tokens=block_tokens, gist_width=gist_width, joined=joined)
    return Batch(
        kind=kind,
        row_kinds=row_kinds,
        ids_BT=torch.from_numpy(np.stack([row.tokens_T for row in rows])),
        targets_BT=torch.from_numpy(np.stack([row.targets_T for row in rows])),
        weights_BT=torch.from_numpy(weights_BT),
        is_answer_BT=torch.from_numpy(is_answer_BT),
        mixed=mixed,
        moments=tuple(asked),
    )


def _far_weights(
    row: Window, is_open_T: npt.NDArray[np.bool_], weight: float, pieces_V: Sequence[bytes]
) -> npt.NDArray[np.float32]:
    """``weight`` [T] where the next token belongs to a word that only closed blocks hold, 1 elsewhere."""
    is_far_T = closed_words([pieces_V[index] for index in row.tokens_T], is_open_T)
    return np.where(np.append(is_far_T[1:], False), weight, 1.0).astype(np.float32)
