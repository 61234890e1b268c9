"""The table that every evaluation shows: who competes, in which order, and what this base cannot bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from megacontext.errors import UnknownNameError
from megacontext.evaluation.methods.controls import (
    ForeignMemory,
    RandomLens,
    ShuffledGists,
    SwappedGists,
    WithoutGists,
)
from megacontext.evaluation.methods.dense import DenseRetrieval
from megacontext.evaluation.methods.focused import FocusedMemory, OracleFocus
from megacontext.evaluation.methods.method import Method
from megacontext.evaluation.methods.plain import FullContext, Recency, Sinks
from megacontext.evaluation.methods.retrieval import Retrieval
from megacontext.focus.lenses.registry import known_lenses
from megacontext.ports.base import Base, BaseInfo
from megacontext.ports.focus import Lens
from megacontext.runtime.opened import OpenedMemory

__all__ = ["Contender", "Histories", "contenders", "default_gister", "pick"]

UNTRAINED_GISTERS = ("mean", "extractive")
LEARNED_GISTER = "gistnet"
LEARNED_LENS = "lensnet"
NOT_A_CONTENDER = ("oracle", "recency")  # the one is told the answer, the other is what rows of gists use


class Histories(Protocol):
    """One history as memories with different gists, and another history of the same kind."""

    def memory(self, gister: str) -> OpenedMemory: ...

    def donor(self, gister: str) -> OpenedMemory:
        """Another history; raises InvalidValueError where there is none."""
        ...


Maker = Callable[[Histories, Base, int], Method]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A row of the table. kind: ``limit`` (may use what no method has: all room, or the answer), ``plain``, ``gists``,
    ``lens`` or ``control``; of: the row that a control controls."""

    name: str
    label: str
    kind: str
    make: Maker
    of: str = ""
    missing: str = ""  # why this base cannot have it

    @property
    def is_there(self) -> bool:
        return not self.missing


def default_gister(info: BaseInfo) -> str:
    """The best that a base brings: its learned gists, or what surprised it."""
    return LEARNED_GISTER if info.gist_net else "extractive"


def contenders(info: BaseInfo) -> list[Contender]:
    """All rows in order, also those that this base cannot bring (``missing`` says why)."""
    gister = default_gister(info)
    rows = [
        _plain(FullContext, "limit", gister),
        _plain(Recency, "plain", gister),
        _plain(Sinks, "plain", gister),
        _plain(Retrieval, "plain", gister, label="RAG, lexical"),
        _plain(DenseRetrieval, "plain", gister),
        _plain(WithoutGists, "control", gister, of=gister),
    ]
    labels = {**{name: f"{name} gists" for name in UNTRAINED_GISTERS}, LEARNED_GISTER: "learned gists"}
    for name, label in labels.items():
        missing = "has no learned gists" if name == LEARNED_GISTER and not info.gist_net else ""
        rows.append(_gists(name, label, missing=missing))
        rows.append(_control(f"{name}-shuffled", f"{label}, shuffled", _shuffled(name), of=name, missing=missing))
    rows += [
        _control(f"{gister}-swapped", f"{labels[gister]}, swapped", _swapped(gister), of=gister),
        _lens("random", gister, RandomLens, label="lens random", kind="control"),
    ]
    for name in sorted(
        {*known_lenses(), LEARNED_LENS} - {*NOT_A_CONTENDER}, key=lambda name: (name == LEARNED_LENS, name)
    ):
        missing = ""
        if name == LEARNED_LENS:
            missing = "" if info.has_lens else "has no learned lens"
            if name not in known_lenses():
                missing = "this installation has no lens of that name"
        rows.append(_lens(name, gister, name, label=f"lens {name}", missing=missing))
    rows.append(_plain(OracleFocus, "limit", gister))
    return rows


def pick(rows: Sequence[Contender], names: Sequence[str]) -> list[Contender]:
    """The rows of these names in the table's order, all of them for no names; UnknownNameError lists the names."""
    known = [row.name for row in rows]
    for name in names:
        if name not in known:
            raise UnknownNameError.of("method", name, known)
    return [row for row in rows if not names or row.name in names]


def _plain(method: Callable[..., Method], kind: str, gister: str, *, of: str = "", label: str = "") -> Contender:
    def make(histories: Histories, base: Base, budget_entries: int) -> Method:
        return method(histories.memory(gister), base, budget_entries=budget_entries)

    name: str = method.name  # type: ignore[attr-defined]
    return Contender(name=name, label=label or method.label, kind=kind, make=make, of=of)  # type: ignore[attr-defined]


def _gists(gister: str, label: str, *, missing: str = "") -> Contender:
    """All that is old as gists, the end raw, nothing opened."""

    def make(histories: Histories, base: Base, budget_entries: int) -> Method:
        return FocusedMemory(histories.memory(gister), base, budget_entries=budget_entries, lens="recency")

    return Contender(name=gister, label=label, kind="gists", make=make, missing=missing)


def _control(name: str, label: str, make: Maker, *, of: str, missing: str = "") -> Contender:
    return Contender(name=name, label=label, kind="control", make=make, of=of, missing=missing)


def _shuffled(gister: str) -> Maker:
    def make(histories: Histories, base: Base, budget_entries: int) -> Method:
        memory = histories.memory(gister)
        reader = ShuffledGists(memory.reader, memory)
        return ForeignMemory(memory, base, budget_entries=budget_entries, lens="recency", reader=reader)

    return make


def _swapped(gister: str) -> Maker:
    def make(histories: Histories, base: Base, budget_entries: int) -> Method:
        memory = histories.memory(gister)
        reader = SwappedGists(memory.reader, histories.donor(gister))
        return ForeignMemory(memory, base, budget_entries=budget_entries, lens="recency", reader=reader)

    return make


def _lens(
    name: str, gister: str, lens: str | Callable[[], Lens], *, label: str, kind: str = "lens", missing: str = ""
) -> Contender:
    def make(histories: Histories, base: Base, budget_entries: int) -> Method:
        made = lens if isinstance(lens, str) else lens()
        return FocusedMemory(histories.memory(gister), base, budget_entries=budget_entries, lens=made)

    return Contender(name=name, label=label, kind=kind, make=make, missing=missing)
