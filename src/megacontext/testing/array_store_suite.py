"""What every ArrayStore must do. Subclass it, and give the fixtures ``store`` and ``objects``."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from megacontext.errors import CorruptionError, StorageError
from megacontext.ports.arrays import ArraySpec, ArrayStore

__all__ = ["GISTS", "TOKENS", "ArrayStoreSuite", "example_rows"]

TOKENS = ArraySpec(name="lod0", row_shape=(), dtype="uint32", shard_rows=256, chunk_rows=64, compress=True)
GISTS = ArraySpec(name="lod1", row_shape=(2, 8), dtype="float16", shard_rows=64, chunk_rows=16)
PLACES = ArraySpec(name="meta1", row_shape=(2, 2), dtype="float32", shard_rows=64, chunk_rows=16)


def example_rows(spec: ArraySpec, shard: int) -> npt.NDArray[np.generic]:
    """Rows of a shard that differ from row to row and from shard to shard, the first ones zero."""
    shape = (spec.shard_rows, *spec.row_shape)
    rows = np.random.default_rng(shard).integers(0, 2000, size=shape).astype(spec.dtype)
    rows[: spec.chunk_rows] = 0
    return rows


def lost(_: bytes) -> list[bytes | None]:
    return [None]


def cut_short(content: bytes) -> list[bytes | None]:
    return [content[:length] for length in (*range(0, len(content), 20), len(content) - 1)]


def flipped(content: bytes) -> list[bytes | None]:
    """A bit of every byte, another one from byte to byte."""
    places = range(len(content))
    return [content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :] for place in places]


def grown(content: bytes) -> list[bytes | None]:
    """Longer by what a JSON parser would not mind."""
    return [content + b"\n", b" " + content, content + content]


DAMAGES = [lost, cut_short, flipped, grown]


class ArrayStoreSuite:
    """Fixture ``store``: an empty ArrayStore. Fixture ``objects``: what lies in it by object name, to be damaged."""

    @pytest.mark.parametrize("spec", [TOKENS, GISTS, PLACES], ids=lambda spec: spec.name)
    def test_rows_come_back_bit_for_bit(self, store: ArrayStore, spec: ArraySpec) -> None:
        shards = [example_rows(spec, shard) for shard in range(3)]
        for shard, rows in enumerate(shards):
            store.write_shard(spec, shard, rows)
        whole = np.concatenate(shards)
        for start, stop in [(0, len(whole)), (0, 1), (spec.shard_rows - 1, spec.shard_rows + 1), (5, 5)]:
            got = store.read(spec, start, stop)
            assert got.dtype == whole.dtype
            np.testing.assert_array_equal(got, whole[start:stop])

    def test_many_spans_equal_one_by_one(self, store: ArrayStore) -> None:
        for shard in range(3):
            store.write_shard(GISTS, shard, example_rows(GISTS, shard))
        spans = [(0, 3), (100, 170), (7, 7), (0, 3), (191, 192), (40, 20 + 40)]
        many = store.read_many(GISTS, spans)
        assert len(many) == len(spans)
        for (start, stop), rows in zip(spans, many, strict=True):
            np.testing.assert_array_equal(rows, store.read(GISTS, start, stop))
        assert store.read_many(GISTS, []) == []

    @pytest.mark.parametrize("spec", [TOKENS, GISTS, PLACES], ids=lambda spec: spec.name)
    def test_gathered_rows_come_in_the_order_asked_for(self, store: ArrayStore, spec: ArraySpec) -> None:
        shards = [example_rows(spec, shard) for shard in range(3)]
        for shard, rows in enumerate(shards):
            store.write_shard(spec, shard, rows)
        whole = np.concatenate(shards)
        wanted = np.random.default_rng(0).integers(0, len(whole), 500)
        for asked in (wanted, wanted[:1], wanted[:0], np.arange(len(whole))[::-1], np.repeat(wanted[:3], 2)):
            got = store.gather(spec, asked)
            assert got.dtype == whole.dtype
            np.testing.assert_array_equal(got, whole[asked])
            got[...] = 0
        np.testing.assert_array_equal(store.gather(spec, wanted), whole[wanted])

    def test_gathering_what_is_not_there_is_an_error(self, store: ArrayStore) -> None:
        store.write_shard(TOKENS, 0, example_rows(TOKENS, 0))
        with pytest.raises(CorruptionError, match="lod0/c/1"):
            store.gather(TOKENS, np.array([3, 256, 5]))

    def test_what_was_read_may_be_forgotten(self, store: ArrayStore) -> None:
        store.forget()
        store.write_shard(TOKENS, 0, example_rows(TOKENS, 0))
        store.read(TOKENS, 100, 110)
        store.forget()
        np.testing.assert_array_equal(store.read(TOKENS, 100, 110), example_rows(TOKENS, 0)[100:110])

    def test_a_rewritten_shard_is_read_anew_by_whoever_read_it_before(self, store: ArrayStore) -> None:
        """Row by row, in stretches and scattered: as an erasure does."""
        rows = np.arange(0, TOKENS.shard_rows, 3)
        for version in (0, 4, 5):
            store.write_shard(TOKENS, 0, example_rows(TOKENS, version))
            store.write_shard(TOKENS, 1, example_rows(TOKENS, version + 10))
            wanted = np.concatenate([example_rows(TOKENS, version), example_rows(TOKENS, version + 10)])
            np.testing.assert_array_equal(store.read(TOKENS, 70, 75), wanted[70:75])
            np.testing.assert_array_equal(store.read_many(TOKENS, [(250, 260), (1, 2)])[0], wanted[250:260])
            np.testing.assert_array_equal(store.gather(TOKENS, rows), wanted[rows])

    def test_shards_may_come_in_any_order_and_again(self, store: ArrayStore) -> None:
        store.write_shard(TOKENS, 1, example_rows(TOKENS, 8))
        store.write_shard(TOKENS, 0, example_rows(TOKENS, 0))
        store.write_shard(TOKENS, 1, example_rows(TOKENS, 1))
        np.testing.assert_array_equal(store.read(TOKENS, 256, 512), example_rows(TOKENS, 1))
        np.testing.assert_array_equal(store.read_shard(TOKENS, 1), example_rows(TOKENS, 1))
        np.testing.assert_array_equal(store.read_shard(TOKENS, 0), example_rows(TOKENS, 0))

    def test_what_is_not_there_is_an_error_and_not_zeros(self, store: ArrayStore) -> None:
        with pytest.raises(CorruptionError, match="lod0"):
            store.read(TOKENS, 0, 1)
        store.write_shard(TOKENS, 0, example_rows(TOKENS, 0))
        with pytest.raises(CorruptionError, match="lod0/c/1"):
            store.read(TOKENS, 250, 260)
        with pytest.raises(CorruptionError, match="lod0/c/2"):
            store.read_shard(TOKENS, 2)

    def test_spans_that_cannot_be_read_do_not_hide_the_others(self, store: ArrayStore) -> None:
        assert all(isinstance(found, CorruptionError) for found in store.read_each(GISTS, [(0, 1), (70, 71)]))
        store.write_shard(GISTS, 0, example_rows(GISTS, 0))
        store.write_shard(GISTS, 2, example_rows(GISTS, 2))
        spans = [(60, 64), (63, 65), (64, 64), (128, 130), (70, 71), (0, 2)]
        found = store.read_each(GISTS, spans)
        for (start, stop), rows in zip(spans, found, strict=True):
            if isinstance(rows, StorageError):
                assert isinstance(rows, CorruptionError)
                assert "lod1/c/1" in str(rows)
            else:
                np.testing.assert_array_equal(rows, store.read(GISTS, start, stop))
        assert [isinstance(rows, StorageError) for rows in found] == [False, True, False, False, True, False]

    def test_a_shard_is_readable_at_once_after_it_was_missing(self, store: ArrayStore) -> None:
        store.write_shard(TOKENS, 0, example_rows(TOKENS, 0))
        with pytest.raises(CorruptionError):
            store.read(TOKENS, 256, 257)
        store.write_shard(TOKENS, 1, example_rows(TOKENS, 1))
        np.testing.assert_array_equal(store.read(TOKENS, 256, 512), example_rows(TOKENS, 1))

    def test_results_belong_to_the_caller(self, store: ArrayStore) -> None:
        store.write_shard(TOKENS, 0, example_rows(TOKENS, 0))
        first = store.read(TOKENS, 100, 110)
        first[:] = 0
        np.testing.assert_array_equal(store.read(TOKENS, 100, 110), example_rows(TOKENS, 0)[100:110])

    def test_bytes_are_counted(self, store: ArrayStore) -> None:
        assert store.num_bytes() == 0
        store.write_shard(GISTS, 0, example_rows(GISTS, 0))
        assert store.num_bytes() >= example_rows(GISTS, 0).nbytes

    def test_names_tell_shards_apart(self, store: ArrayStore) -> None:
        names = {store.object_name(spec, shard) for spec in (TOKENS, GISTS) for shard in range(3)}
        assert len(names) == 6

    def test_the_layout_is_written_with_the_first_shard(self, store: ArrayStore) -> None:
        assert store.damaged_layout([]) == []
        arrays = {damage.array for damage in store.damaged_layout([TOKENS, GISTS])}
        assert arrays >= {TOKENS.name, GISTS.name}
        store.write_shard(TOKENS, 0, example_rows(TOKENS, 0))
        assert {damage.array for damage in store.damaged_layout([TOKENS, GISTS])} == {GISTS.name}
        store.write_shard(GISTS, 0, example_rows(GISTS, 0))
        assert store.damaged_layout([TOKENS, GISTS]) == []

    def test_a_layout_of_another_shape_is_damage(self, store: ArrayStore) -> None:
        store.write_shard(GISTS, 0, example_rows(GISTS, 0))
        other = replace(GISTS, row_shape=(1, 8))
        assert [damage.array for damage in store.damaged_layout([other])] == [GISTS.name]

    @pytest.mark.parametrize("spoil", DAMAGES)
    def test_every_damage_of_the_layout_is_named_and_mended(
        self, store: ArrayStore, objects: MutableMapping[str, bytes], spoil: Callable[[bytes], list[bytes | None]]
    ) -> None:
        """Found wherever the file is damaged, no hindrance to look at the shards, and made good to the byte."""
        specs = [TOKENS, GISTS, PLACES]
        for spec in specs:
            store.write_shard(spec, 0, example_rows(spec, 0))
        shards = {store.object_name(spec, 0) for spec in specs}
        layout = {name: objects[name] for name in objects if name not in shards}
        assert layout
        for name, intact in layout.items():
            for content in spoil(intact):
                if content is None:
                    del objects[name]
                else:
                    objects[name] = content
                assert [damage.object_name for damage in store.damaged_layout(specs)] == [name], content
            for spec in specs:
                np.testing.assert_array_equal(store.read_shard(spec, 0), example_rows(spec, 0))
            store.mend_layout(specs)
            assert store.damaged_layout(specs) == []
            assert objects[name] == intact
        for spec in specs:
            np.testing.assert_array_equal(store.read(spec, 0, spec.shard_rows), example_rows(spec, 0))

    def test_nothing_is_orphaned_in_peace(self, store: ArrayStore) -> None:
        store.write_shard(TOKENS, 0, example_rows(TOKENS, 0))
        assert store.remove_orphans({TOKENS.name: 1, GISTS.name: 0}) == []
        np.testing.assert_array_equal(store.read(TOKENS, 0, 256), example_rows(TOKENS, 0))

    def test_shards_that_are_not_in_use_are_orphans(self, store: ArrayStore) -> None:
        """Of the arrays that are named; a removed one is gone for readers, and can be written again."""
        for spec in (TOKENS, GISTS, PLACES):
            for shard in range(3):
                store.write_shard(spec, shard, example_rows(spec, shard))
        store.read(TOKENS, 0, 3 * TOKENS.shard_rows)
        in_use = {TOKENS.name: 1, GISTS.name: 0}
        wanted = {store.object_name(TOKENS, shard) for shard in (1, 2)}
        wanted |= {store.object_name(GISTS, shard) for shard in range(3)}
        num_bytes = store.num_bytes()
        found = store.orphans(in_use)
        assert {orphan.object_name for orphan in found} == wanted
        assert store.num_bytes() == num_bytes
        assert {orphan.object_name for orphan in store.remove_orphans(in_use)} == wanted
        assert store.num_bytes() == num_bytes - sum(orphan.num_bytes for orphan in found)
        assert store.orphans(in_use) == store.remove_orphans(in_use) == []
        has = [[store.has_shard(spec, shard) for shard in range(3)] for spec in (TOKENS, GISTS, PLACES)]
        assert has == [[True, False, False], [False] * 3, [True] * 3]
        with pytest.raises(CorruptionError, match="missing"):
            store.read(TOKENS, TOKENS.shard_rows, TOKENS.shard_rows + 1)
        for spec, shard in ((TOKENS, 1), (GISTS, 0)):
            other = example_rows(spec, 9)
            store.write_shard(spec, shard, other)
            np.testing.assert_array_equal(
                store.read(spec, shard * spec.shard_rows, (shard + 1) * spec.shard_rows), other
            )
        np.testing.assert_array_equal(store.read(TOKENS, 0, TOKENS.shard_rows), example_rows(TOKENS, 0))
