"""What every Catalog must do: subclass ``CatalogSuite`` and ``SearchSuite``, each with a ``catalog`` fixture over
``EXAMPLE_INFO``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from megacontext.errors import InvariantError, MemoryClosedError
from megacontext.ports.catalog import Catalog, CatalogWriter, Extent, MemoryInfo, Passage, Segment, Source
from megacontext.ports.gister import GistBatch

__all__ = ["EXAMPLE_INFO", "CatalogSuite", "add_example_source", "example_gists"]

EXAMPLE_INFO = MemoryInfo(
    block_tokens=8,
    segment_tokens=64,
    base_name="example",
    base_revision="1",
    base_fingerprint="f" * 64,
    vocab_size=1000,
    dim=4,
    gister_name="mean",
    gister_version="1",
    gist_width=2,
    created_at=1_700_000_000.5,
)


def tokens(start: int, count: int) -> npt.NDArray[np.uint32]:
    return np.arange(start, start + count, dtype=np.uint32)


def example_gists(count: int, *, seed: int = 0) -> GistBatch:
    rng = np.random.default_rng(seed)
    return GistBatch(
        vectors=rng.standard_normal((count, 2, 4)).astype(np.float16),
        offsets=rng.uniform(0, 8, (count, 2)).astype(np.float32),
        weights=rng.uniform(0, 1, (count, 2)).astype(np.float32),
    )


def add_example_source(
    writer: CatalogWriter, start: int, stop: int, *, uri: str = "file:///a", version: int = 1
) -> int:
    """A source of one extent with its tokens in the tail."""
    source = Source(
        uri=uri,
        version=version,
        kind="tokens",
        raw_digest="",
        text_digest="",
        num_bytes=4 * (stop - start),
        token_start=start,
        token_stop=stop,
        author="Ada",
        labels={"team": "infra", "größe": "1"},
        created_at=12.25,
    )
    source_id = writer.add_source(source)
    writer.add_extent(
        Extent(
            source_id=source_id,
            token_start=start,
            token_stop=stop,
            byte_start=0,
            byte_stop=4 * (stop - start),
            title="all of it",
            time=3.5,
            anchors=np.arange(0, 4 * (stop - start), 128, dtype=np.int64),
        )
    )
    writer.append_tail(start, tokens(start, stop - start))
    return source_id


def assert_same_gists(got: GistBatch, want: GistBatch) -> None:
    assert [part.dtype.name for part in (got.vectors, got.offsets, got.weights)] == ["float16", "float32", "float32"]
    np.testing.assert_array_equal(got.vectors, want.vectors)
    np.testing.assert_array_equal(got.offsets, want.offsets)
    np.testing.assert_array_equal(got.weights, want.weights)


class CatalogSuite:
    """Fixture ``catalog``: an empty Catalog for EXAMPLE_INFO."""

    def test_a_new_catalog_is_empty(self, catalog: Catalog) -> None:
        assert catalog.info == EXAMPLE_INFO
        state = catalog.state()
        assert (state.num_tokens, state.sealed_tokens, state.indexed_tokens, state.num_sources) == (0, 0, 0, 0)
        assert dict(state.sealed_nodes) == {}
        assert (catalog.sources(), catalog.segments(), catalog.extents(0, 10), catalog.gists(1, 0, 10)) == ([],) * 4
        sealed_tokens, tail = catalog.tail(0, 10)
        assert (sealed_tokens, tail.dtype.name, len(tail)) == (0, "uint32", 0)
        assert list(catalog.check()) == []

    def test_a_source_comes_back_as_it_was_given(self, catalog: Catalog) -> None:
        with catalog.write() as writer:
            assert add_example_source(writer, 0, 40) == 1
            assert add_example_source(writer, 40, 50, version=2) == 2
            assert add_example_source(writer, 50, 60, uri="file:///b") == 3
        assert [source.source_id for source in catalog.sources()] == [1, 2, 3]
        assert [source.version for source in catalog.sources(uri="file:///a")] == [1, 2]
        assert catalog.newest_source("file:///a") == catalog.sources()[1]
        assert catalog.newest_source("file:///none") is None
        first = catalog.sources()[0]
        assert (first.author, first.created_at, first.token_stop) == ("Ada", 12.25, 40)
        assert dict(first.labels) == {"team": "infra", "größe": "1"}
        assert catalog.state().num_sources == 3
        assert list(catalog.check()) == []

    def test_extents_are_found_by_token_range(self, catalog: Catalog) -> None:
        with catalog.write() as writer:
            for start in range(0, 100, 10):
                add_example_source(writer, start, start + 10, uri=f"file:///{start}")
        for start, stop, want in [(0, 100, range(10)), (9, 11, [0, 1]), (20, 30, [2]), (30, 30, []), (100, 200, [])]:
            found = catalog.extents(start, stop)
            assert [source.uri for source, _ in found] == [f"file:///{10 * index}" for index in want]
            assert all(extent.source_id == source.source_id for source, extent in found)
        _, extent = catalog.extents(55, 56)[0]
        assert (extent.title, extent.time, extent.byte_stop) == ("all of it", 3.5, 40)
        assert extent.anchors.dtype == np.int64
        np.testing.assert_array_equal(extent.anchors, [0])

    def test_a_source_can_be_described_later(self, catalog: Catalog) -> None:
        with catalog.write() as writer:
            source_id = add_example_source(writer, 0, 4)
        before = catalog.sources()[0]
        with catalog.write() as writer:
            writer.describe_source(source_id, role="user", author="", licence="MIT")
        assert catalog.sources()[0] == replace(before, role="user", licence="MIT")
        assert list(catalog.check()) == []

    def test_labels_can_be_set_later(self, catalog: Catalog) -> None:
        with catalog.write() as writer:
            source_id = add_example_source(writer, 0, 4)
        with catalog.write() as writer:
            writer.set_label(source_id, "team", "docs")
            writer.set_label(source_id, "new", "")
        assert dict(catalog.sources()[0].labels) == {"team": "docs", "größe": "1", "new": ""}

    @pytest.mark.parametrize("piece", [1, 7, 50, 300])
    def test_the_tail_is_the_same_in_any_pieces(self, catalog: Catalog, piece: int) -> None:
        for start in range(0, 300, piece):
            with catalog.write() as writer:
                writer.append_tail(start, tokens(start, min(piece, 300 - start)))
        assert catalog.state().num_tokens == 300
        for start, stop in [(0, 300), (0, 1), (299, 300), (99, 201), (50, 50), (290, 999), (300, 310)]:
            sealed_tokens, got = catalog.tail(start, stop)
            assert sealed_tokens == 0
            np.testing.assert_array_equal(got, tokens(0, 300)[start:stop])
        assert list(catalog.check()) == []

    def test_a_source_grows_with_its_tail(self, catalog: Catalog) -> None:
        with catalog.write() as writer:
            add_example_source(writer, 0, 8)
            source_id = add_example_source(writer, 8, 16, uri="file:///b")
        with catalog.write() as writer:
            writer.append_tail(16, tokens(16, 4))
            writer.extend_source(source_id, token_stop=20, num_bytes=48)
        source, extent = catalog.extents(19, 20)[0]
        assert (source.token_stop, source.num_bytes, extent.token_stop, extent.byte_stop) == (20, 48, 20, 48)
        with pytest.raises(InvariantError), catalog.write() as writer:
            writer.extend_source(1, token_stop=30, num_bytes=9)

    def test_sealing_drops_the_tail_below(self, catalog: Catalog) -> None:
        with catalog.write() as writer:
            writer.append_tail(0, tokens(0, 100))
        with catalog.write() as writer:
            writer.seal(Segment(segment=0, digest="d0", raw_digest="r0"))
        assert (catalog.state().num_tokens, catalog.state().sealed_tokens) == (100, 64)
        sealed_tokens, got = catalog.tail(0, 100)
        assert sealed_tokens == 64
        np.testing.assert_array_equal(got, tokens(64, 36))
        np.testing.assert_array_equal(catalog.tail(70, 80)[1], tokens(70, 10))
        assert catalog.segments() == [Segment(segment=0, digest="d0", raw_digest="r0")]
        assert list(catalog.check()) == []

    def test_bulk_seals_past_the_tail(self, catalog: Catalog) -> None:
        with catalog.write() as writer:
            writer.append_tail(0, tokens(0, 10))
        with catalog.write() as writer:
            writer.seal(Segment(segment=0, digest="d0"))
            writer.seal(Segment(segment=1, digest="d1"))
            writer.append_tail(128, tokens(128, 5))
        assert (catalog.state().num_tokens, catalog.state().sealed_tokens) == (133, 128)
        np.testing.assert_array_equal(catalog.tail(0, 200)[1], tokens(128, 5))
        with pytest.raises(InvariantError), catalog.write() as writer:
            writer.seal(Segment(segment=3, digest="d3"))

    def test_tail_can_be_rewritten_in_place(self, catalog: Catalog) -> None:
        expected = tokens(0, 300)
        for start in range(0, 300, 20):
            with catalog.write() as writer:
                writer.append_tail(start, expected[start : start + 20])
        for start, stop in [(0, 300), (10, 15), (19, 21), (295, 300), (0, 1), (130, 270)]:
            expected[start:stop] = 999
            with catalog.write() as writer:
                writer.replace_tail(start, expected[start:stop])
            np.testing.assert_array_equal(catalog.tail(0, 300)[1], expected)
        with pytest.raises(InvariantError), catalog.write() as writer:
            writer.replace_tail(299, tokens(0, 2))

    def test_gists_wait_in_runs(self, catalog: Catalog) -> None:
        gists = example_gists(9)
        with catalog.write() as writer:
            writer.put_gists(1, 0, gists[0:3])
            writer.put_gists(1, 5, gists[5:9])
            writer.put_gists(2, 0, gists[3:4])
        runs = catalog.gists(1, 1, 8)
        assert [first for first, _ in runs] == [1, 5]
        assert_same_gists(runs[0][1], gists[1:3])
        assert_same_gists(runs[1][1], gists[5:8])
        with catalog.write() as writer:
            writer.put_gists(1, 2, example_gists(3, seed=1))  # overwrites node 2, closes the gap
        [(first, run)] = catalog.gists(1, 0, 100)
        assert (first, len(run)) == (0, 9)
        assert_same_gists(run[2:5], example_gists(3, seed=1))
        assert_same_gists(run[5:9], gists[5:9])

    def test_sealed_gists_are_dropped(self, catalog: Catalog) -> None:
        with catalog.write() as writer:
            writer.put_gists(1, 0, example_gists(9))
            writer.put_gists(2, 0, example_gists(2))
        with catalog.write() as writer:
            writer.seal_gists(1, 8)
        assert dict(catalog.state().sealed_nodes) == {1: 8}
        assert [(first, len(run)) for first, run in catalog.gists(1, 0, 9)] == [(8, 1)]
        assert [(first, len(run)) for first, run in catalog.gists(2, 0, 9)] == [(0, 2)]

    def test_a_failed_transaction_changes_nothing(self, catalog: Catalog) -> None:
        with catalog.write() as writer:
            add_example_source(writer, 0, 8)
        before = (catalog.state(), catalog.sources(), catalog.search("word", limit=9))
        with pytest.raises(ZeroDivisionError), catalog.write() as writer:
            self.change_everything_and_fail(writer)
        assert (catalog.state(), catalog.sources(), catalog.search("word", limit=9)) == before
        np.testing.assert_array_equal(catalog.tail(0, 100)[1], tokens(0, 8))
        with catalog.write() as writer:
            writer.append_tail(8, tokens(8, 1))
        assert catalog.state().num_tokens == 9

    def change_everything_and_fail(self, writer: CatalogWriter) -> None:
        add_example_source(writer, 8, 100, uri="file:///b")
        writer.put_gists(1, 0, example_gists(1))
        writer.add_passages([Passage(token_start=0, token_stop=32, text="a word")])
        writer.seal(Segment(segment=0, digest="d"))
        raise ZeroDivisionError

    def test_reads_do_not_see_a_transaction_in_progress(self, catalog: Catalog) -> None:
        with catalog.write() as writer:
            writer.append_tail(0, tokens(0, 10))
            assert catalog.state().num_tokens == 0
            assert len(catalog.tail(0, 10)[1]) == 0
        assert catalog.state().num_tokens == 10

    def test_misuse_is_refused(self, catalog: Catalog) -> None:
        with catalog.write() as writer:
            add_example_source(writer, 0, 8)
        with pytest.raises(InvariantError), catalog.write() as writer:
            writer.append_tail(9, tokens(9, 1))
        with pytest.raises(InvariantError), catalog.write() as writer:
            add_example_source(writer, 8, 16)  # the same version of the same uri
        with pytest.raises(InvariantError), catalog.write() as writer:
            writer.set_label(7, "key", "value")
        with pytest.raises(InvariantError), catalog.write(), catalog.write():
            pass
        gists = example_gists(1)
        with pytest.raises(InvariantError), catalog.write() as writer:
            writer.put_gists(1, 0, replace(gists, vectors=gists.vectors[:, :, :3]))
        assert catalog.state().num_tokens == 8

    def test_a_rebuilt_catalog_keeps_all_but_what_tokens_give(self, catalog: Catalog) -> None:
        for start in range(0, 100, 20):
            with catalog.write() as writer:
                add_example_source(writer, start, start + 20, uri=f"file:///{start}")
        with catalog.write() as writer:
            writer.seal(Segment(segment=0, digest="d"))
            writer.put_gists(1, 0, example_gists(9))
            writer.seal_gists(1, 8)
            writer.add_passages([Passage(token_start=0, token_stop=32, text="word")])
            writer.set_label(2, "team", "docs")
        state, sources, segments = catalog.state(), catalog.sources(), catalog.segments()
        [(node, waiting)] = catalog.gists(1, 0, 9)
        catalog.rebuild()
        assert catalog.info == EXAMPLE_INFO
        assert (catalog.sources(), catalog.segments()) == (sources, segments)
        assert catalog.state() == replace(state, indexed_tokens=0)
        np.testing.assert_array_equal(catalog.tail(0, 100)[1], tokens(64, 36))
        assert catalog.search("word", limit=1) == []
        for kept, gists in catalog.gists(1, 0, 9):  # those that were intact may come back
            assert (kept, gists.vectors.tolist()) == (node, waiting.vectors.tolist())
        assert list(catalog.check()) == []
        with catalog.write() as writer:
            writer.append_tail(100, tokens(100, 1))
        assert list(catalog.check()) == []

    def test_an_erased_source_keeps_nothing_but_its_place(self, catalog: Catalog) -> None:
        with catalog.write() as writer:
            add_example_source(writer, 0, 8)
            add_example_source(writer, 8, 20, uri="file:///kept")
        with catalog.write() as writer:
            writer.erase_source(1)
        catalog.compact()
        assert catalog.num_erased() == 1
        erased, kept = catalog.sources()
        assert erased == Source(
            source_id=1,
            uri="erased/1",
            version=1,
            kind="tokens",
            raw_digest="",
            text_digest="",
            num_bytes=32,
            token_start=0,
            token_stop=8,
            created_at=12.25,
        )
        assert (kept.uri, kept.author, dict(kept.labels)) == ("file:///kept", "Ada", {"team": "infra", "größe": "1"})
        (_, extent), (_, other) = catalog.extents(0, 20)
        assert (extent.token_start, extent.token_stop, extent.title, extent.time) == (0, 8, "", 0.0)
        assert (extent.byte_stop, len(extent.anchors), other.title) == (0, 0, "all of it")
        assert list(catalog.check()) == []
        catalog.rebuild()
        assert catalog.sources() == [erased, kept]
        with pytest.raises(InvariantError), catalog.write() as writer:
            writer.erase_source(3)

    def test_a_sealed_segment_can_be_sealed_anew(self, catalog: Catalog) -> None:
        with catalog.write() as writer:
            writer.append_tail(0, tokens(0, 100))
            writer.seal(Segment(segment=0, digest="d0", raw_digest="r0"))
        with catalog.write() as writer:
            writer.reseal(Segment(segment=0, digest="d1", raw_digest=""))
        assert catalog.segments() == [Segment(segment=0, digest="d1", raw_digest="")]
        assert list(catalog.check()) == []
        with pytest.raises(InvariantError), catalog.write() as writer:
            writer.reseal(Segment(segment=1, digest="d1"))

    def test_closed_is_closed(self, catalog: Catalog) -> None:
        catalog.close()
        catalog.close()
        with pytest.raises(MemoryClosedError):
            catalog.state()
        with pytest.raises(MemoryClosedError), catalog.write():
            pass
