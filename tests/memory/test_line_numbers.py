"""Lines of places in long sources: as counted from the beginning, and read no further than they must be."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.memory import line_numbers, source_texts
from megacontext.memory.line_numbers import LineNumbers
from megacontext.memory.source_texts import SourceTexts
from megacontext.ports.catalog import Source


def source_of(blobs, text):
    with blobs.stream() as sink:
        sink.write(text)
        digest = sink.finish()
    return Source(
        uri="long.txt",
        version=1,
        kind="text",
        raw_digest=digest,
        text_digest=digest,
        num_bytes=len(text),
        token_start=0,
        token_stop=1,
        created_at=0.0,
    )


class Pieces:
    """A store that gives blobs in small pieces and counts what it gives."""

    def __init__(self, blobs, size):
        self.blobs, self.size, self.num_bytes = blobs, size, 0

    def pieces(self, digest):
        data = self.blobs.get(digest)
        for start in range(0, len(data), self.size):
            self.num_bytes += len(data[start : start + self.size])
            yield data[start : start + self.size]

    def part(self, digest, start, stop):
        self.num_bytes += stop - start
        return self.blobs.part(digest, start, stop)

    def __getattr__(self, name):
        return getattr(self.blobs, name)


@pytest.fixture(scope="module")
def small_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_numbers, "STEP_BYTES", 10)
        patch.setattr(line_numbers, "NEAR_BYTES", 50)
        patch.setattr(source_texts, "LONG_BYTES", 100)
        yield


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text("ab\n", min_size=1, max_size=400), min_size=1, max_size=3),
    asked=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 400)), max_size=40),
    size=st.integers(1, 90),
)
def test_lines_are_as_counted_from_the_beginning(kit, small_steps, texts, asked, size):
    """In any order of places, of long and short sources by turns, whatever pieces the store gives."""
    memory = kit.make_memory(blobs=Pieces(kit.MemoryBlobs(), size))
    sources = [source_of(memory._parts.blobs, text.encode()) for text in texts]
    lines = LineNumbers(memory._parts)
    for number, place in asked:
        text = texts[number % len(texts)]
        place = min(place, len(text))
        found = lines.before(sources[number % len(texts)], place, SourceTexts(memory._parts))
        assert found == text.count("\n", 0, place)


def test_a_second_look_reads_little(kit, monkeypatch):
    monkeypatch.setattr(source_texts, "LONG_BYTES", 1000)
    monkeypatch.setattr(line_numbers, "STEP_BYTES", 1000)
    monkeypatch.setattr(line_numbers, "NEAR_BYTES", 4000)
    text = b"a line\n" * 100_000
    store = Pieces(kit.MemoryBlobs(), 1000)
    memory = kit.make_memory(blobs=store)
    source, lines = source_of(store, text), LineNumbers(memory._parts)
    assert lines.before(source, 650_000, SourceTexts(memory._parts)) == 650_000 // 7
    assert 650_000 <= store.num_bytes < 652_000
    places = random.Random(0).sample(range(654_000), 200)
    for place in places:
        store.num_bytes = 0
        assert lines.before(source, place, SourceTexts(memory._parts)) == place // 7
        assert store.num_bytes <= 4000
    for place in range(654_000, 700_000, 3_500):  # reading on
        store.num_bytes = 0
        assert lines.before(source, place, SourceTexts(memory._parts)) == place // 7
        assert store.num_bytes <= 4000


def test_what_is_remembered_is_bounded(kit, monkeypatch):
    monkeypatch.setattr(line_numbers, "STEP_BYTES", 100)
    memory = kit.make_memory()
    lines, texts = LineNumbers(memory._parts), SourceTexts(memory._parts)
    for number in range(40):
        source = source_of(memory._parts.blobs, b"%d\n" % number * 1000)
        for place in range(2000):
            lines.before(source, place, texts)
    assert len(lines._known) == line_numbers._NUM_SOURCES
    assert max(len(places) for places, _ in lines._known.values()) <= 2000 // 100 + 1
