"""Costs count what they say they count."""

from __future__ import annotations

from pathlib import Path

from megacontext.evaluation.cost import decode_cost, disk_cost
from megacontext.runtime.assembly import open as open_memory
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


def test_bytes_on_disk_are_all_there(tmp_path: Path) -> None:
    folder = tmp_path / "m.mc"
    with open_memory(folder, base=tiny_base(), create=True, gister="mean") as memory:
        memory.ingest(text="It was late and nobody came. " * 3000, source="lines")
        cost, stats = disk_cost(memory, folder), memory.inspect()
    assert cost.tokens > 0
    assert cost.gists > 0
    assert cost.raw > 0
    assert round(cost.total * stats.num_tokens) == stats.num_bytes
