"""Sessions over a store that is slow or dead: less detail, a warning, and the detail again once it is back."""

from __future__ import annotations

import numpy as np
import pytest

import megacontext as mc
from megacontext.errors import CorruptionError, StorageTimeoutError
from megacontext.focus.lenses.oracle import OracleLens
from megacontext.gisters.registry import make_gister
from megacontext.memory.layout import token_spec
from megacontext.ports.catalog import MemoryInfo
from megacontext.runtime.base_source import LoadedBase
from megacontext.runtime.opened import OpenedMemory
from megacontext.testing.memory_arrays import MemoryArrays, MemoryBlobs
from megacontext.testing.memory_catalog import MemoryCatalog
from megacontext.tree.geometry import TreeGeometry

SEGMENT = TreeGeometry(8).segment_tokens
NUM_TOKENS = 3 * SEGMENT + 100
PLACE = (SEGMENT + 160, SEGMENT + 170)  # what the lens wants to see
QUESTION = "where?"
NOTHING = np.zeros(0, np.uint32)


@pytest.fixture
def arrays():
    return MemoryArrays()


@pytest.fixture
def remote(arrays, base):
    """A memory whose sealed part lies in ``arrays``."""
    source = LoadedBase(base)
    gister = make_gister("mean", source, block_tokens=8, gist_width=1)
    info = MemoryInfo(
        block_tokens=8,
        segment_tokens=SEGMENT,
        base_name=base.info.name,
        base_revision="",
        base_fingerprint=base.info.fingerprint,
        vocab_size=base.info.vocab_size,
        dim=base.info.dim,
        gister_name="mean",
        gister_version=gister.version,
        gist_width=1,
        created_at=0.0,
    )
    with OpenedMemory(
        base=source, catalog=MemoryCatalog(info), arrays=arrays, blobs=MemoryBlobs(), gister=lambda: gister
    ) as memory:
        memory.append(np.random.default_rng(0).integers(97, 123, NUM_TOKENS))
        yield memory


def answers(session, **options):
    return list(session.generate(QUESTION, max_new_tokens=6, stop=(), **options))


def shows(session, start, stop):
    wc = session.working_context
    touched = (wc.starts < stop) & (wc.stops > start)
    return bool((wc.levels[touched] == 0).all())


def warnings_of(events):
    return [event.text for event in events if isinstance(event, mc.WarningEvent)]


@pytest.mark.parametrize("kv", ["exact", "patch"])
def test_an_answer_does_without_what_the_store_does_not_give_and_says_so(remote, arrays, kv):
    with remote.session(budget_entries=400, lens=OracleLens(spans=[PLACE]), kv=kv) as session:
        arrays.silent.add(("lod0", 1))
        events = answers(session)
        (warning,) = warnings_of(events)
        assert "16 tokens are shown less finely" in warning
        assert "lod0" in warning
        assert not shows(session, *PLACE)
        assert isinstance(events[-1], mc.DoneEvent)
        assert len(events[-1].token_ids) == 6
        arrays.silent.clear()
        assert not warnings_of(answers(session))
        assert shows(session, *PLACE)


def test_what_it_answers_is_what_the_coarser_window_says(remote, arrays):
    with remote.session(budget_entries=400, lens=OracleLens(spans=[PLACE]), kv="exact") as session:
        arrays.silent.add(("lod0", 1))
        less = answers(session)[-1].token_ids
        cut = session.working_context.cut.rows()
    arrays.silent.clear()
    with remote.session(budget_entries=400, lens=OracleLens(spans=[PLACE]), kv="exact") as session:
        engine = session._engine
        prompt = engine.base.codec.encode(engine.base.info.question_template.format(question=QUESTION)).token_ids
        session.refocus(QUESTION, reserve_entries=len(prompt) + 6)
        engine.working_context.close_rows(
            (engine.working_context.starts < PLACE[1]) & (engine.working_context.stops > PLACE[0])
        )
        assert engine.working_context.cut.rows() == cut
        window, expected = engine.show(prompt), []
        for _ in range(6):
            expected.append(int(window.next_logits.argmax()))
            window.append(np.array(expected[-1:], np.uint32))
    assert list(less) == expected


def test_where_gists_are_silent_too_their_parents_stand_for_them(remote, arrays):
    with remote.session(budget_entries=400, lens=OracleLens(spans=[PLACE])) as session:
        arrays.silent |= {("lod0", 1), ("lod1", 1)}
        events = answers(session)
        assert len(warnings_of(events)) == 1
        wc = session.working_context
        inside = (wc.starts >= SEGMENT) & (wc.stops <= 2 * SEGMENT)
        assert inside.any()
        assert wc.levels[inside].min() >= 2


def test_a_refocus_reports_it_and_the_cut_stays_where_the_lens_could_not_look(remote, arrays):
    class Reading(OracleLens):
        def score(self, request):
            request.memory.tokens(*PLACE)
            return super().score(request)

    with remote.session(budget_entries=400, lens=Reading(spans=[PLACE])) as session:
        assert session.refocus(QUESTION).warnings == ()
        before = session.working_context.cut.rows()
        arrays.silent.add(("lod0", 1))
        session._engine.focus.lens.spans = [(16, 20)]
        report = session.refocus(QUESTION)
        assert "detail stays where it was" in report.warnings[0]
        assert (report.num_expanded, report.num_collapsed) == (0, 0)
        assert session.working_context.cut.rows() == before
        assert session.refocus(QUESTION).warnings == report.warnings


def test_what_is_pinned_and_cannot_be_read_is_an_error_and_the_cut_is_as_it_was(remote, arrays):
    with remote.session(budget_entries=400, lens="recency") as session:
        session.pin(*PLACE)
        before = session.working_context.cut.rows()
        arrays.silent.add(("lod0", 1))
        with pytest.raises(StorageTimeoutError, match="lod0"):
            session._engine.show(NOTHING)
        assert session.working_context.cut.rows() == before
        arrays.silent.clear()
        assert np.isfinite(session.nll(np.array([97, 98]))).all()


def test_damage_is_never_passed_over(remote, arrays):
    with remote.session(budget_entries=400, lens=OracleLens(spans=[PLACE])) as session:
        arrays.lose(token_spec(remote.info), 1)
        with pytest.raises(CorruptionError, match="lod0/c/1"):
            answers(session)


def test_neighbours_of_what_was_opened_are_fetched_ahead(remote, arrays):
    with remote.session(budget_entries=400, lens=OracleLens(spans=[PLACE])) as session:
        arrays.ahead.clear()
        session.refocus(QUESTION)
        assert {("lod0", PLACE[0] - 8, PLACE[0]), ("lod0", PLACE[0] + 16, PLACE[0] + 24)} <= set(arrays.ahead)
