"""Summaries by the model as gists: what is asked, what is kept, and what a failure costs."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.bases.remote.http import Patience
from megacontext.bases.remote.rendering import history_text
from megacontext.bases.remote.text_base import OpenAIHandle
from megacontext.errors import InvalidValueError, ServerError
from megacontext.gisters.summary import NODES_AT_ONCE, SummaryGister
from megacontext.ports.gister import CostlyGister, Gister
from megacontext.runtime import assembly
from megacontext.testing.openai_server import Failure

TEXT = "Anna met Bob in the garden, and they spoke of the harvest until it was late. "
REFUSED = Failure(status=400, body={"error": {"message": "no thanks"}})


@pytest.fixture
def handle(server):
    return OpenAIHandle(f"openai:reference@{server.url}", patience=Patience(num_retries=0))


def memory_of(path, handle, **how):
    return assembly.open(path, base=handle, gister="summary", **{"block_tokens": 16, "gist_width": 8, **how})


def tokens_of(handle, num_blocks):
    return np.tile(handle.codec.encode(TEXT).token_ids, 8 * num_blocks)[: 16 * num_blocks]


def notes(count):
    """A text of which no two blocks are equal: of two that are, one is asked for."""
    return " ".join(str(number) for number in range(1000, 1000 + count))


def answers(count):
    """What the model may have said, in less time."""
    return [
        Failure(status=200, body={"choices": [{"message": {"content": f"note {number}"}, "finish_reason": "stop"}]})
        for number in range(count)
    ]


def asked(server):
    return len(server.asked("chat/completions"))


def test_a_gist_is_the_beginning_of_what_the_model_says(server, handle):
    gister = SummaryGister(handle, block_tokens=16, gist_width=8)
    assert isinstance(gister, Gister)
    assert isinstance(gister, CostlyGister)
    gists = gister.from_tokens(tokens_of(handle, 2), start=0, num_context=0)
    assert asked(server) == 2
    body = server.asked("chat/completions")[0].body
    rows = server.prompt_rows(body)
    whole = "".join(text for text, _ in server.generate(rows, {**body, "max_tokens": body["max_tokens"]}))
    text = history_text(gists.vectors[0].astype(np.float32), handle.codec)
    said = text.removeprefix("\n[gist: ").removesuffix("]\n")
    assert said
    assert " ".join(whole.split()).startswith(said)
    assert (np.diff(gists.offsets, axis=1) > 0).all()
    assert gists.offsets.max() < 16


def test_a_short_summary_leaves_places_empty_and_what_is_blank_is_not_asked_for(server, handle):
    server.fail(Failure(status=200, body={"choices": [{"message": {"content": "Anna"}, "finish_reason": "stop"}]}))
    gister = SummaryGister(handle, block_tokens=16, gist_width=8)
    blank = np.full(16, handle.codec.encode("\n").token_ids[0], dtype=np.uint32)
    token_ids = np.concatenate([tokens_of(handle, 1), blank])
    gists = gister.from_tokens(token_ids, start=0, num_context=0)
    assert asked(server) == 1
    said = [history_text(vectors.astype(np.float32), handle.codec) for vectors in gists.vectors]
    assert said == ["\n[gist: Anna]\n", "\n[...]\n"]


def test_upper_levels_summarise_summaries(server, handle):
    server.fail(*answers(17))
    gister = SummaryGister(handle, block_tokens=16, gist_width=8)
    children = gister.from_tokens(handle.codec.encode(notes(100)).token_ids[:256], start=0, num_context=0)
    parent = gister.from_gists(children, level=2)
    below = [history_text(vectors.astype(np.float32), handle.codec)[7:-2] for vectors in children.vectors]
    told = server.asked("chat/completions")[-1].body["messages"][1]["content"]
    assert all(" ".join(said.split()) in " ".join(told.split()) for said in below)
    assert parent.offsets.max() < 256


def test_a_memory_asks_once_for_each_node(server, handle, tmp_path):
    server.fail(*answers(100))
    with memory_of(tmp_path / "m", handle, create=True) as memory:
        memory.ingest(text=notes(120), source="notes")
        num_nodes = memory.num_tokens // 16 + memory.num_tokens // 256
        assert asked(server) == num_nodes > 32
        memory.gists(1, 0, memory.num_tokens // 16)
    with memory_of(tmp_path / "m", OpenAIHandle(handle.name)) as memory:
        memory.gists(2, 0, memory.num_tokens // 256)
        assert memory.check(recompute_gists=True).damages == ()
        with memory.session(budget_entries=500) as session:
            list(session.generate("What is 1077?", max_new_tokens=2))
    assert asked(server) == num_nodes + 1
    assert "[gist: note " in server.asked("chat/completions")[-1].body["messages"][1]["content"]


def test_a_failed_call_keeps_what_was_made_and_goes_on_from_there(server, handle, tmp_path):
    server.fail(*answers(2 * NODES_AT_ONCE + 3), *[REFUSED] * 40)
    with memory_of(tmp_path / "m", handle, create=True) as memory:
        report = memory.ingest(text=notes(160), source="notes")
        assert report.num_tokens == memory.num_tokens  # nothing is lost
        assert "no thanks" in report.deferred
    server.failures.clear()
    server.fail(*answers(100))
    num_before = asked(server)
    with memory_of(
        tmp_path / "m", OpenAIHandle(handle.name)
    ) as memory:  # as in another process, which remembers nothing
        assert memory.is_missing_gists
        memory.store_gists()
        assert not memory.is_missing_gists
        num_nodes = memory.num_tokens // 16 + memory.num_tokens // 256
        assert asked(server) - num_before == num_nodes - 2 * NODES_AT_ONCE > 0
        memory.gists(1, 0, memory.num_tokens // 16)
        assert asked(server) - num_before == num_nodes - 2 * NODES_AT_ONCE


def test_an_append_never_pays(server, handle, tmp_path):
    with memory_of(tmp_path / "m", handle, create=True) as memory:
        memory.append(np.tile(tokens_of(handle, 64), 80))  # more than a segment
        assert asked(server) == 0
        server.fail(REFUSED)
        with pytest.raises(ServerError, match="no thanks"):
            memory.gists(1, 0, 1)


@pytest.mark.parametrize(("block_tokens", "gist_width"), [(8, 4), (32, 7)])
def test_too_few_tokens_for_a_summary_are_refused(handle, block_tokens, gist_width):
    with pytest.raises(InvalidValueError, match="at least 8"):
        SummaryGister(handle, block_tokens=block_tokens, gist_width=gist_width)
