"""A session over a real store across a network: slow, silent, and back."""

from __future__ import annotations

import numpy as np
import pytest

import megacontext as mc
from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.focus.lenses.oracle import OracleLens
from megacontext.gisters.registry import make_gister
from megacontext.runtime import assembly
from megacontext.runtime.base_source import LoadedBase
from megacontext.runtime.opened import OpenedMemory
from megacontext.storage.blobs import FileBlobs
from megacontext.storage.cached_arrays import cached_store
from megacontext.testing.s3_folder import S3Folder
from megacontext.units import MIB

NUM_TOKENS = 150_000  # two segments at K = 8, and a tail
PLACE = (70_000, 70_010)


@pytest.fixture
def server(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with S3Folder(tmp_path / "memory", latency_s=0.005) as served:
        yield served


@pytest.fixture
def remote(tmp_path, base, server):
    """A memory whose sealed arrays come over HTTP."""
    with assembly.open(tmp_path / "memory", base=base, create=True, gister="mean", block_tokens=8) as memory:
        memory.append(np.random.default_rng(0).integers(97, 123, NUM_TOKENS))
        memory.store_gists()
    source = LoadedBase(base)
    with OpenedMemory(
        base=source,
        catalog=SqliteCatalog.open(tmp_path / "memory", read_only=True),
        arrays=cached_store(server.url, cache_bytes=8 * MIB, read_timeout_s=2.0),
        blobs=FileBlobs(tmp_path / "memory"),
        gister=lambda: make_gister("mean", source, block_tokens=8, gist_width=1),
        read_only=True,
    ) as memory:
        yield memory


def answer(session):
    return list(session.generate("where?", max_new_tokens=4, stop=()))


def warnings_of(events):
    return [event.text for event in events if isinstance(event, mc.WarningEvent)]


def raw(session, start, stop):
    wc = session.working_context
    return bool((wc.levels[(wc.starts < stop) & (wc.stops > start)] == 0).all())


def test_an_answer_over_a_silent_store_comes_with_less_and_later_with_all_again(remote, server):
    lens = OracleLens(spans=[PLACE])
    with remote.session(budget_entries=400, lens=lens) as session:
        assert warnings_of(answer(session)) == []
        assert raw(session, *PLACE)
        server.is_silent = True
        lens.spans = ((20_000, 20_010),)
        events = answer(session)
        (warning,) = warnings_of(events)
        assert "took too long" in warning
        assert isinstance(events[-1], mc.DoneEvent)
        assert not raw(session, 20_000, 20_010)
        server.is_silent = False
        assert warnings_of(answer(session)) == []
        assert raw(session, 20_000, 20_010)


def test_what_lies_beside_an_opened_block_needs_no_request_any_more(remote, server):
    with remote.session(budget_entries=400, lens=OracleLens(spans=[PLACE])) as session:
        answer(session)
        ahead = remote._parts.arrays._store._ahead
        for read in list(ahead._under_way):
            read.result()
        num_requests = server.num_requests
        remote.tokens(PLACE[0] - 8, PLACE[1] + 8)
        assert server.num_requests == num_requests
