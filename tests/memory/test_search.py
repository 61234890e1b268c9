"""Words are found anywhere, indexed or not yet, however they came."""

from __future__ import annotations

import itertools

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


def test_a_passage_of_several_sources_is_shown_source_by_source(kit):
    memory = kit.make_memory()
    for name in ("ada", "bob", "eve"):
        memory.ingest(text=f"{name} likes {'tea' if name != 'bob' else 'water'}. ", source=name)
    results = memory.search("tea")
    assert {result.uri for result in results} == {"ada", "eve"}
    for result in results:
        (source,) = [source for source in memory.sources() if source.uri == result.uri]
        assert (result.token_start, result.token_stop) == (source.token_start, source.token_stop)
        assert result.text == f"{result.uri} likes tea. "


def test_results_share_no_tokens_and_lose_no_words(kit):
    memory = kit.make_memory()
    text = "".join(f"bread{number:03} " + "x" * (number % 7) + " bread " for number in range(300))
    memory.ingest(text=text, source="hay")
    results = memory.search("bread", limit=1000)
    hits = memory.search_hits("bread", limit=1000)
    spans = sorted((result.token_start, result.token_stop) for result in results)
    assert len(spans) > 10
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(spans))
    assert sum(stop - start for start, stop in spans) < sum(hit.token_stop - hit.token_start for hit in hits)
    assert [result.score for result in results] == sorted((result.score for result in results), reverse=True)
    assert all(result.text == memory.text(result.token_start, result.token_stop) for result in results)
    shown = "".join(memory.text(*span) for span in spans)
    assert all(f"bread{number:03}" in shown for number in range(300))
    assert len(memory.search("bread", limit=7)) == 7


def test_a_short_source_is_shown_once_and_whole_where_a_passage_ends_in_it(kit):
    memory = kit.make_memory()
    memory.ingest(text="hay " * 10, source="hay")  # 40 tokens; 8 a block: passages of 32, the next begins at 24
    memory.append_text("Ada: 48213. ", source="ada")  # 40:52
    memory.append_text("Bob: 77123. ", source="bob")  # 52:64, over the end of the passage of 24:56
    memory.append_text("Eve: 90909. ", source="eve")
    assert memory.reader.state.indexed_tokens == 56
    for question in ("Ada", "Bob", "Ada Bob", "48213 Bob hay"):
        results = memory.search(question)
        asked = [word for word in question.split() if word != "hay"]
        assert len([result for result in results if result.uri != "hay"]) == len(asked)
        for result in results:
            if result.uri != "hay":
                (source,) = [source for source in memory.sources() if source.uri == result.uri]
                assert (result.token_start, result.token_stop) == (source.token_start, source.token_stop)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=25),
    limit=st.integers(1, 30),
    question=st.sampled_from(["bread", "bread tea", "tea salt", "zebra bread"]),
)
def test_nothing_is_shown_twice_and_no_short_source_is_cut(kit, sizes, limit, question):
    memory = kit.make_memory()
    for number, size in enumerate(sizes):
        text = f"{('bread', 'tea', 'salt')[number % 3]} {number} ".ljust(size, ".")
        memory.append_text(text, source=f"source {number}")
    sources = {source.uri: source for source in memory.sources()}
    results = memory.search(question, limit=limit)
    spans = sorted((result.token_start, result.token_stop) for result in results)
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(spans))
    assert [result.score for result in results] == sorted((result.score for result in results), reverse=True)
    for result in results:
        source = sources[result.uri]
        assert result.text == memory.text(result.token_start, result.token_stop)
        assert source.token_start <= result.token_start < result.token_stop <= source.token_stop
        if source.token_stop - source.token_start <= 32:
            assert (result.token_start, result.token_stop) == (source.token_start, source.token_stop)


def test_a_word_in_what_two_passages_share_is_found_once(kit):
    memory = kit.make_memory()
    place = 24 * 8  # 8 tokens a block: passages begin every 24 tokens and share 8
    memory.ingest(text=f"{'h ' * (place // 2)}needle {'h ' * 200}", source="hay")
    hits = [hit for hit in memory.search_hits("needle", limit=9) if hit.token_start <= place]
    assert len(hits) == 2
    (result,) = memory.search("needle")
    assert "needle" in result.text


def test_an_empty_memory_and_no_results(kit):
    assert kit.make_memory().search("x") == []
    with pytest.raises(InvalidValueError, match="limit is 0"):
        kit.make_memory().search("x", limit=0)


def test_passages_overlap_by_a_block():
    assert [indexed_stop(count, 8) for count in (0, 31, 32, 55, 56, 80)] == [0, 0, 32, 32, 56, 80]
    assert [next_passage_start(stop, 8) for stop in (0, 32, 56)] == [0, 24, 48]
