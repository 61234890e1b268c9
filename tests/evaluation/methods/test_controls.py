"""Controls differ from what they control in their gists alone; contenders say what a base lacks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from megacontext.errors import UnknownNameError
from megacontext.evaluation.methods.contenders import contenders, default_gister, pick
from megacontext.evaluation.methods.controls import RandomLens, WithoutGists
from megacontext.evaluation.methods.dense import DenseRetrieval, PassageIndex
from megacontext.evaluation.methods.focused import RECENCY, FocusedMemory, WindowShape
from megacontext.evaluation.methods.foreign import ShuffledGists, SwappedGists
from megacontext.evaluation.methods.method import Lead
from megacontext.runtime.assembly import open as open_memory
from megacontext.runtime.opened import OpenedMemory
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.fake_core import tiny_core_base

BASE = tiny_base()
BUDGET = 320
TARGET = np.frombuffer(b"Line 150 says", np.uint8).astype(np.uint32)


def opened(folder: object, text: str) -> OpenedMemory:
    memory = open_memory(str(folder), base=BASE, create=True, gister="mean")
    memory.ingest(text=text, source="lines")
    return memory


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedMemory]:
    lines = "".join(f"Line {number} says nothing of note. " for number in range(120))
    with opened(tmp_path_factory.mktemp("own") / "m.mc", lines) as found:
        yield found


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedMemory]:
    with opened(tmp_path_factory.mktemp("other") / "m.mc", "QUITE ANOTHER STORY, MUCH SHORTER! " * 20) as found:
        yield found


def nodes(memory: OpenedMemory) -> tuple[np.ndarray, np.ndarray]:
    """Every node of every level."""
    pairs = [
        (level, index)
        for level in range(1, memory.num_levels)
        for index in range(memory.tree.num_nodes(level, memory.num_tokens))
    ]
    levels, indices = np.array(pairs, dtype=np.int64).T
    return levels, indices


def test_shuffled_gists_are_those_of_other_places(memory: OpenedMemory) -> None:
    levels, indices = nodes(memory)
    assert levels.max() >= 2, "the history should have an upper level"
    own = memory.reader.gist_batch(levels, indices)
    shuffled = ShuffledGists(memory.reader, memory)
    found = shuffled.gist_batch(levels, indices)
    np.testing.assert_array_equal(found.offsets, own.offsets)
    assert (found.vectors != own.vectors).any(axis=(1, 2)).all()
    known = {vector.tobytes() for vector in own.vectors}
    assert all(vector.tobytes() in known for vector in found.vectors)
    np.testing.assert_array_equal(found.vectors, shuffled.gist_batch(levels, indices).vectors)


def test_swapped_gists_are_those_of_another_history(memory: OpenedMemory, donor: OpenedMemory) -> None:
    levels, indices = nodes(memory)
    found = SwappedGists(memory.reader, donor).gist_batch(levels, indices)
    other_levels, other_indices = nodes(donor)
    known = {vector.tobytes() for vector in donor.reader.gist_batch(other_levels, other_indices).vectors}
    assert all(vector.tobytes() in known for vector in found.vectors)
    np.testing.assert_array_equal(found.offsets, memory.reader.gist_batch(levels, indices).offsets)


def test_controls_show_the_same_cut_and_other_gists(memory: OpenedMemory, donor: OpenedMemory) -> None:
    real = FocusedMemory(memory, BASE, budget_entries=BUDGET, shape=RECENCY)
    nats = real.nll(TARGET)
    for reader in (ShuffledGists(memory.reader, memory), SwappedGists(memory.reader, donor)):
        control = FocusedMemory(memory, BASE, budget_entries=BUDGET, shape=RECENCY, gists=reader)
        assert (control.nll(TARGET) != nats).any()
        assert control.session.working_context.cut == real.session.working_context.cut
        control.close()
    real.close()


def test_without_gists_the_raw_tokens_of_the_same_window_are_left(memory: OpenedMemory) -> None:
    method = WithoutGists(memory, BASE, budget_entries=BUDGET)
    shown = method.context_ids("", BUDGET - 20)
    session = memory.session(budget_entries=BUDGET, lens="recency", recent_tokens=40)
    session.refocus("", reserve_entries=20)
    wc = session.working_context
    raw = wc.levels == 0
    assert 0 < raw.sum() < wc.num_entries
    assert len(shown) == int((wc.stops - wc.starts)[raw].sum())
    assert shown[-40:].tolist() == memory.tokens(memory.num_tokens - 40, memory.num_tokens).tolist()
    method.close()


def test_the_random_lens_opens_places_by_chance_and_the_same_for_the_same_question(memory: OpenedMemory) -> None:
    def opened_for(query: str) -> list[int]:
        method = FocusedMemory(memory, BASE, budget_entries=1024, shape=WindowShape(lens=RandomLens()))
        method.nll(TARGET, after=Lead(query=query))
        wc = method.session.working_context
        starts = wc.starts[wc.levels == 0].tolist()
        method.close()
        return starts

    assert opened_for("one") == opened_for("one") != opened_for("two")


def test_dense_passages_come_from_near_the_words(tmp_path: object) -> None:
    parts = ["aaaa bbbb " * 60, "zzzz yyyy " * 60, "mmmm nnnn " * 60]
    with opened(f"{tmp_path}/m.mc", "".join(parts)) as memory:
        start, stop = PassageIndex(memory).best(BASE.codec.encode("zzzz yyyy").token_ids, limit=1)[0]
        assert 600 - 100 <= start < stop <= 1200 + 100
        shown = DenseRetrieval(memory, BASE, budget_entries=BUDGET).context_ids("zzzz yyyy", 300)
        assert len(shown) == 300
        assert "zzzz yyyy" in BASE.codec.decode(shown)


def test_every_gist_has_a_control_and_a_base_is_told_what_it_lacks() -> None:
    plain, learned = contenders(BASE.info), contenders(tiny_core_base().info)
    for rows in (plain, learned):
        names = [row.name for row in rows]
        assert len(set(names)) == len(names)
        for row in rows:
            controls = [other for other in rows if other.of == row.name and other.name.endswith("shuffled")]
            assert len(controls) == (row.kind == "gists")
    assert {row.name for row in plain if not row.is_there} >= {"gistnet", "gistnet-shuffled", "lensnet"}
    assert "gistnet" not in {row.name for row in learned if not row.is_there}
    assert (default_gister(BASE.info), default_gister(tiny_core_base().info)) == ("extractive", "gistnet")
    assert [row.name for row in pick(plain, ["oracle", "full"])] == ["full", "oracle"]
    with pytest.raises(UnknownNameError, match="unknown method 'magic'; known: attention, auto"):
        pick(plain, ["magic"])
