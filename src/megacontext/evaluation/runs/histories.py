"""The memories of an evaluation: one history with each gister, and another history beside it, made when needed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

from megacontext.bases.registry import BaseHandle
from megacontext.errors import InvalidValueError
from megacontext.evaluation.methods.method import Span, TokenIds
from megacontext.evaluation.tasks.task import Case, Evidence, Plan
from megacontext.ports.text import TextCodec
from megacontext.runtime.assembly import open as open_memory
from megacontext.runtime.opened import OpenedMemory

__all__ = ["CaseHistories", "EvidenceFinder", "Shelf", "shares_text"]

PIECE_TOKENS = 1024
DONORS_TRIED = 4
PROBES, PROBE_CHARS = 32, 60


class Shelf:
    """Memories below ``folder``; those that the next case does not need are closed and removed."""

    def __init__(self, folder: Path, handle: BaseHandle, *, block_tokens: int, gist_width: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left half made
        self._folder = folder
        self._open = partial(open_memory, base=handle, create=True, block_tokens=block_tokens, gist_width=gist_width)
        self._codec = handle.codec
        self._memories: dict[tuple[str, str], OpenedMemory] = {}
        self._folders: dict[tuple[str, str], Path] = {}
        self._cases: dict[str, Case] = {}
        self._count = 0

    def case(self, plan: Plan) -> Case:
        if plan.key not in self._cases:
            self._cases[plan.key] = plan.make()
        return self._cases[plan.key]

    def memory(self, plan: Plan, gister: str) -> OpenedMemory:
        """The history of a plan with the gists of one gister."""
        if (plan.key, gister) not in self._memories:
            self._count += 1
            place = self._folders[plan.key, gister] = self._folder / f"{self._count}.mc"
            memory = self._open(place, gister=gister)
            self._memories[plan.key, gister] = memory
            for document in self.case(plan).documents:
                if document.text:
                    memory.ingest(text=document.text, source=document.name)
                else:
                    memory.append(document.token_ids, source=document.name)
        return self._memories[plan.key, gister]

    def donor(self, plan: Plan, others: Sequence[Plan]) -> Plan | None:
        """One of the next of other histories whose text is none of this one's; the next where all of them share some
        (lines of noise, for example)."""
        text = self._text(plan)
        for other in others[:DONORS_TRIED]:
            if not shares_text(text, self._text(other)):
                return other
        return next(iter(others), None)

    def _text(self, plan: Plan) -> str:
        decode = self._codec.decode
        documents = self.case(plan).documents
        return "\n".join(document.text or decode(document.token_ids) for document in documents)

    def keep(self, *plans: Plan) -> None:
        """Remove all other histories."""
        kept = {plan.key for plan in plans}
        for key, gister in [held for held in self._memories if held[0] not in kept]:
            self._memories.pop((key, gister)).close()
            shutil.rmtree(self._folders.pop((key, gister)), ignore_errors=True)
        self._cases = {key: case for key, case in self._cases.items() if key in kept}

    def close(self) -> None:
        self.keep()
        shutil.rmtree(self._folder, ignore_errors=True)


class CaseHistories:
    """One case's memories, and those of another case (``Histories`` for contenders), chosen when it is asked for."""

    def __init__(self, shelf: Shelf, plan: Plan, donors: Sequence[Plan]) -> None:
        self._shelf = shelf
        self._plan = plan
        self._donors = donors

    def memory(self, gister: str) -> OpenedMemory:
        return self._shelf.memory(self._plan, gister)

    def donor(self, gister: str) -> OpenedMemory:
        if self._donor is None:
            raise InvalidValueError("gists of another history need two histories; ask for at least 2 samples")
        return self._shelf.memory(self._donor, gister)

    @cached_property
    def _donor(self) -> Plan | None:
        return self._shelf.donor(self._plan, self._donors)


class EvidenceFinder:
    """Finds words in a history by decoding it once: its tokens need not be those of the words encoded alone."""

    def __init__(self, codec: TextCodec, token_ids: TokenIds) -> None:
        self._decode: Callable[[TokenIds], str] = codec.decode
        self._token_ids = token_ids
        self._starts = range(0, len(token_ids), PIECE_TOKENS)
        pieces = [self._decode(token_ids[start : start + PIECE_TOKENS]) for start in self._starts]
        self._text = "".join(pieces)
        self._ends: list[int] = []
        for piece in pieces:
            self._ends.append(len(piece) + (self._ends[-1] if self._ends else 0))

    def spans(self, evidence: tuple[Evidence, ...]) -> tuple[Span, ...]:
        return tuple(self.span(words) if isinstance(words, str) else words for words in evidence)

    def span(self, words: str) -> Span:
        """The tokens that spell ``words``, which stand once in the history.

        Raises InvalidValueError if they do not, or more than once: a generator that is wrong about its own evidence.
        """
        at = self._text.find(words)
        if at < 0 or self._text.find(words, at + 1) >= 0:
            times = "more than once" if at >= 0 else "not"
            raise InvalidValueError(f"{words!r} stands {times} in this history; evidence must stand once")
        piece = next(number for number, end in enumerate(self._ends) if end > at)
        start = self._starts[piece]
        window = self._token_ids[start : start + PIECE_TOKENS + len(words.encode()) + 1]
        stop = _first(len(window), lambda size: words in self._decode(window[:size]))
        size = _first(stop, lambda size: words in self._decode(window[stop - size : stop]))
        return start + stop - size, start + stop


def shares_text(text: str, other: str) -> bool:
    """Whether a piece of one text stands in the other one, as far as a few probes of it tell."""
    starts = {len(text) * number // PROBES for number in range(PROBES)}
    return any(text[start : start + PROBE_CHARS] in other for start in starts)


def _first(limit: int, holds: Callable[[int], bool]) -> int:
    """The smallest number from 1 to ``limit`` from which on something holds."""
    low, high = 1, limit
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
