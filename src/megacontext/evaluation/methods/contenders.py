"""The table that every evaluation shows: who competes, in which order, and what this base cannot bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from megacontext.errors import InvalidValueError, UnknownNameError
from megacontext.evaluation.methods.controls import RandomLens, WithoutGists
from megacontext.evaluation.methods.dense import DenseRetrieval
from megacontext.evaluation.methods.focused import RECENCY, FocusedMemory, OracleFocus, WindowShape
from megacontext.evaluation.methods.foreign import ShuffledGists, SwappedGists
from megacontext.evaluation.methods.levels import OneLevel
from megacontext.evaluation.methods.method import Method
from megacontext.evaluation.methods.plain import FullContext, Recency, Sinks
from megacontext.evaluation.methods.retrieval import SMALL_WINDOW_PASSAGES, PassageRetrieval, Retrieval
from megacontext.focus.lenses.registry import known_lenses
from megacontext.gisters.gistnet import LEARNED_GISTER
from megacontext.ports.base import Base, BaseInfo
from megacontext.ports.focus import Lens
from megacontext.runtime.opened import OpenedMemory

__all__ = ["Contender", "Histories", "contenders", "default_gister", "every_row", "pick", "rows_for"]

GIST_LABELS = {"mean": "mean gists", "extractive": "extractive gists", LEARNED_GISTER: "learned gists"}
LEARNED_LENS = "lensnet"
LEVELS = (1, 2, 3)
LEVEL_RECENT = 256
USUAL_BUDGET = 1024
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
        _retrieval(Retrieval, gister, label="RAG, lexical"),
        _retrieval(DenseRetrieval, gister, label=DenseRetrieval.label),
        _without_gists(gister, RECENCY, of=gister),
    ]
    for name, label in GIST_LABELS.items():
        missing = "has no learned gists" if name == LEARNED_GISTER and not info.gist_net else ""
        rows.append(_gists(name, label, missing=missing))
        rows.append(_control(f"{name}-shuffled", f"{label}, shuffled", _shuffled(name), of=name, missing=missing))
    rows += [
        _control(f"{gister}-swapped", f"{GIST_LABELS[gister]}, swapped", _swapped(gister), of=gister),
        _lens("random", gister, RandomLens, label="lens random", kind="control"),
    ]
    for name in sorted({*known_lenses()} - {*NOT_A_CONTENDER}, key=lambda name: (name == LEARNED_LENS, name)):
        missing = "has no learned lens" if name == LEARNED_LENS and not info.has_lens else ""
        rows.append(_lens(name, gister, name, label=f"lens {name}", missing=missing))
    rows.append(_plain(OracleFocus, "limit", gister))
    return rows


def level_contenders(info: BaseInfo) -> list[Contender]:
    """Rows for what a level says: the last ``LEVEL_RECENT`` tokens raw, all before them at one level."""
    gister = default_gister(info)
    rows = [_plain(FullContext, "limit", gister), _plain(Recency, "plain", gister)]
    nothing = WindowShape(lens="recency", allocator=OneLevel(1), recent_tokens=LEVEL_RECENT)
    rows.append(_without_gists(gister, nothing, of="level-1"))
    for level in LEVELS:
        shape = WindowShape(lens="recency", allocator=OneLevel(level), recent_tokens=LEVEL_RECENT)
        name, label = f"level-{level}", f"level {level}, {gister}"
        rows.append(_of_grown(level, _gists(gister, label, name=name, shape=shape)))
        control = _control(f"{name}-shuffled", f"level {level}, shuffled", _shuffled(gister, shape), of=name)
        rows.append(_of_grown(level, control))
    return rows


def closed_contenders(info: BaseInfo) -> list[Contender]:
    """Rows for how gists fail: everything closed to level 1, the very end too. The evidence opened is the limit."""
    default = default_gister(info)
    shape = WindowShape(lens="recency", allocator=OneLevel(1), recent_tokens=0)
    rows = [_plain(FullContext, "limit", default), _plain(Recency, "plain", default)]
    for gister, gists in GIST_LABELS.items():
        missing = "has no learned gists" if gister == LEARNED_GISTER and not info.gist_net else ""
        name, label = f"{gister}-closed", f"{gists} only"
        rows.append(_gists(gister, label, name=name, shape=shape, missing=missing))
        rows.append(
            _control(f"{name}-shuffled", f"{label}, shuffled", _shuffled(gister, shape), of=name, missing=missing)
        )
    swapped = _swapped(default, shape)
    rows.append(
        _control(f"{default}-closed-swapped", f"{GIST_LABELS[default]} only, swapped", swapped, of=f"{default}-closed")
    )
    rows.append(_plain(OracleFocus, "limit", default))
    return rows


ROWS = {"all": contenders, "levels": level_contenders, "closed": closed_contenders}


def rows_for(methods: str, info: BaseInfo) -> list[Contender]:
    """The rows of a kind of task (``Task.methods``)."""
    return ROWS[methods](info)


def every_row(info: BaseInfo) -> dict[str, tuple[Contender, list[str]]]:
    """By name, in order: all rows of all kinds of tasks, and which kinds have them."""
    found: dict[str, tuple[Contender, list[str]]] = {}
    for methods in ROWS:
        for row in rows_for(methods, info):
            found.setdefault(row.name, (row, []))[1].append(methods)
    return found


def pick(rows: Sequence[Contender], names: Sequence[str]) -> list[Contender]:
    """The rows of these names in the table's order, all of them for no names; UnknownNameError lists the names."""
    known = [row.name for row in rows]
    for name in names:
        if name not in known:
            raise UnknownNameError.of("method", name, known)
    return [row for row in rows if not names or row.name in names]


def _plain(method: type[Method], kind: str, gister: str, *, label: str = "") -> Contender:
    def make(histories: Histories, base: Base, budget_entries: int) -> Method:
        return method(histories.memory(gister), base, budget_entries=budget_entries)

    return Contender(name=method.name, label=label or method.label, kind=kind, make=make)


def _retrieval(method: type[PassageRetrieval], gister: str, *, label: str) -> Contender:
    """Passages get what serves small windows best, and a quarter of large ones."""

    def make(histories: Histories, base: Base, budget_entries: int) -> Method:
        room = SMALL_WINDOW_PASSAGES if budget_entries <= USUAL_BUDGET else budget_entries // 4
        return method(histories.memory(gister), base, budget_entries=budget_entries, passage_tokens=room)

    return Contender(name=method.name, label=label, kind="plain", make=make)


def _gists(gister: str, label: str, *, name: str = "", shape: WindowShape = RECENCY, missing: str = "") -> Contender:
    """All that is old as gists, the end raw, nothing opened."""

    def make(histories: Histories, base: Base, budget_entries: int) -> Method:
        return FocusedMemory(histories.memory(gister), base, budget_entries=budget_entries, shape=shape)

    return Contender(name=name or gister, label=label, kind="gists", make=make, missing=missing)


def _of_grown(level: int, row: Contender) -> Contender:
    """The same row, for histories that can show a node of this level: the first holds tokens that stay raw."""

    def make(histories: Histories, base: Base, budget_entries: int) -> Method:
        memory = histories.memory(default_gister(base.info))
        least = 2 * memory.tree.width(level) + LEVEL_RECENT
        if memory.num_tokens < least:
            raise InvalidValueError(
                f"a history of {memory.num_tokens} tokens shows no node of level {level}; use lengths above {least}"
            )
        return row.make(histories, base, budget_entries)

    return replace(row, make=make)


def _without_gists(gister: str, shape: WindowShape, *, of: str) -> Contender:
    def make(histories: Histories, base: Base, budget_entries: int) -> Method:
        return WithoutGists(histories.memory(gister), base, budget_entries=budget_entries, shape=shape)

    return _control(WithoutGists.name, WithoutGists.label, make, of=of)


def _control(name: str, label: str, make: Maker, *, of: str, missing: str = "") -> Contender:
    return Contender(name=name, label=label, kind="control", make=make, of=of, missing=missing)


def _shuffled(gister: str, shape: WindowShape = RECENCY) -> Maker:
    def make(histories: Histories, base: Base, budget_entries: int) -> Method:
        memory = histories.memory(gister)
        gists = ShuffledGists(memory.reader, memory)
        return FocusedMemory(memory, base, budget_entries=budget_entries, shape=shape, gists=gists)

    return make


def _swapped(gister: str, shape: WindowShape = RECENCY) -> Maker:
    def make(histories: Histories, base: Base, budget_entries: int) -> Method:
        memory = histories.memory(gister)
        gists = SwappedGists(memory.reader, histories.donor(gister))
        return FocusedMemory(memory, base, budget_entries=budget_entries, shape=shape, gists=gists)

    return make


def _lens(
    name: str, gister: str, lens: str | Callable[[], Lens], *, label: str, kind: str = "lens", missing: str = ""
) -> Contender:
    def make(histories: Histories, base: Base, budget_entries: int) -> Method:
        made = lens if isinstance(lens, str) else lens()
        return FocusedMemory(
            histories.memory(gister), base, budget_entries=budget_entries, shape=WindowShape(lens=made)
        )

    return Contender(name=name, label=label, kind=kind, make=make, missing=missing)
