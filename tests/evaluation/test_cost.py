"""Costs count what they say they count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megacontext.evaluation import cost as costs
from megacontext.evaluation.cost import decode_cost, disk_cost
from megacontext.runtime.assembly import open as open_memory
from megacontext.runtime.events import DoneEvent, GenerationEvent, RefocusEvent, RefocusReport, TokenEvent
from megacontext.testing.fake_base import tiny_base


def test_every_generated_token_is_timed(tmp_path: Path) -> None:
    with open_memory(tmp_path / "m.mc", base=tiny_base(), create=True, gister="mean") as memory:
        memory.ingest(text="It was late and nobody came. " * 80, source="lines")
        with memory.session(budget_entries=256, refocus_interval=4) as session:
            cost = decode_cost(session, num_tokens=memory.num_tokens, prompt="\n", num_generated=12)
    assert cost.num_generated >= 12
    assert cost.num_tokens == 80 * len("It was late and nobody came. ")
    assert cost.first_ms > 0
    assert cost.with_refocus_ms > 0


TOKEN = TokenEvent(token_id=1, text="x")
DONE = DoneEvent(text="", token_ids=(), reason="stop")
MOVED = RefocusEvent(
    report=RefocusReport(num_expanded=1, num_collapsed=1, num_entries=9, cost=9, latency_ms=1.0), num_generated=0
)


class ScriptedSession:
    """Answers, by their seed, of events that each come so many milliseconds after the one before."""

    def __init__(self, answers: list[list[tuple[float, GenerationEvent]]]) -> None:
        self.answers = answers
        self.now_ms = 0.0

    def complete(self, prompt: str, *, max_new_tokens: int, temperature: float, seed: int) -> Iterator[GenerationEvent]:
        assert (prompt, max_new_tokens, temperature) == ("\n", 4, 1.0)
        for waited_ms, event in self.answers[seed]:
            self.now_ms += waited_ms
            yield event


def test_a_token_after_a_refocus_is_paid_for_and_no_plain_step(monkeypatch: pytest.MonkeyPatch) -> None:
    session: Any = ScriptedSession(
        [
            [(60, MOVED), (20, TOKEN), (10, TOKEN), (900, DONE)],  # stops early: another is sampled
            [(60, MOVED), (60, TOKEN), (10, TOKEN), (60, MOVED), (10, TOKEN), (900, TOKEN), (900, DONE)],
        ]
    )
    monkeypatch.setattr(costs, "time", SimpleNamespace(perf_counter=lambda: session.now_ms / 1e3))
    cost = decode_cost(session, num_tokens=7, prompt="\n", num_generated=3)
    assert (cost.num_tokens, cost.num_generated) == (7, 3)
    assert cost.first_ms == pytest.approx(100)  # of 80 and 120
    assert cost.per_token_ms == pytest.approx(10)
    assert cost.with_refocus_ms == pytest.approx((10 + 10 + 70) / 3)


def test_bytes_on_disk_are_all_there(tmp_path: Path) -> None:
    folder = tmp_path / "m.mc"
    with open_memory(folder, base=tiny_base(), create=True, gister="mean") as memory:
        memory.ingest(text="It was late and nobody came. " * 3000, source="lines")
        cost, stats = disk_cost(memory, folder), memory.inspect()
    assert cost.tokens > 0
    assert cost.gists > 0
    assert cost.raw > 0
    assert round(cost.total * stats.num_tokens) == stats.num_bytes
