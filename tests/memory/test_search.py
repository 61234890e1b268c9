"""Words are found anywhere, indexed or not yet, however they came."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import InvalidValueError
from megacontext.memory.passages import indexed_stop, next_passage_start


@settings(max_examples=30, deadline=None)
@given(place=st.integers(0, 2000), after=st.integers(0, 300), chunk=st.integers(1, 500))
def test_a_needle_anywhere_is_found(kit, place, after, chunk):
    memory = kit.make_memory()
    hay = ("some hay " * 300)[:place]
    data = np.frombuffer(f"{hay} needle {'more hay ' * 50}"[: place + 8 + after].encode(), np.uint8)
    for start in range(0, len(data), chunk):
        memory.append(data[start : start + chunk])
    hits = memory.search_hits("Needle", limit=5)
    assert hits
    assert all(hit.token_start < place + 8 and hit.token_stop > place for hit in hits)
    assert all(hit.token_stop <= memory.num_tokens for hit in hits)
    assert any(hit.token_start <= place and hit.token_stop >= place + 8 for hit in hits)
    assert memory.reader.state.indexed_tokens == indexed_stop(memory.num_tokens, 8)


def test_results_name_their_sources(kit):
    memory = kit.make_memory()
    memory.ingest(text="nothing here at all, " * 10, source="hay")
    memory.ingest(text="The Café code is 48213. " + "padding words " * 10, source="facts", role="note")
    memory.ingest(text="and the end: max_retries", source="tail")
    best = memory.search("what is the cafe code?", limit=3)[0]
    assert (best.uri, best.version, best.role) == ("facts", 1, "note")
    assert "Café code" in best.text
    assert best.text == memory.text(best.token_start, best.token_stop)
    assert memory.search("retries")[0].uri == "tail"
    assert memory.search("zebra") == []
    assert memory.search("") == []
    assert memory.search('"quoted AND* (odd* NEAR:')[0].uri == "tail"  # any text is a question
    assert len(memory.search("hay words here", limit=2)) == 2


def test_an_empty_memory_and_no_results(kit):
    assert kit.make_memory().search("x") == []
    with pytest.raises(InvalidValueError, match="limit is 0"):
        kit.make_memory().search("x", limit=0)


def test_passages_overlap_by_a_block():
    assert [indexed_stop(count, 8) for count in (0, 31, 32, 55, 56, 80)] == [0, 0, 32, 32, 56, 80]
    assert [next_passage_start(stop, 8) for stop in (0, 32, 56)] == [0, 24, 48]
