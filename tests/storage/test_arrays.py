"""The array store on TensorStore: as every store, and in what is its own."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
from tests.small_disk import mounted, small_file_system

from megacontext.errors import CorruptionError, InvariantError, MemoryReadOnlyError, StorageError, StorageFullError
from megacontext.storage.arrays import TensorStoreArrays
from megacontext.storage.faults import tensorstore_fault
from megacontext.testing.array_store_suite import GISTS, TOKENS, ArrayStoreSuite, example_rows


class Objects(MutableMapping[str, bytes]):
    """What lies in a store, past the store itself."""

    def __init__(self, store: TensorStoreArrays) -> None:
        handles = store._handles
        spec = handles._kvstore if store._folder is None else {**handles._kvstore, "file_io_sync": False}
        self._kvstore = ts.KvStore.open(spec, context=handles._context).result()

    def __getitem__(self, name: str) -> bytes:
        return bytes(self._kvstore[name.removeprefix("arrays/")])

    def __setitem__(self, name: str, content: bytes) -> None:
        self._kvstore[name.removeprefix("arrays/")] = content

    def __delitem__(self, name: str) -> None:
        del self._kvstore[name.removeprefix("arrays/")]

    def __iter__(self) -> Iterator[str]:
        return iter(f"arrays/{key.decode()}" for key in self._kvstore.list().result())

    def __len__(self) -> int:
        return len(list(iter(self)))


class TensorStoreSuite(ArrayStoreSuite):
    @pytest.fixture
    def objects(self, store: TensorStoreArrays) -> Objects:
        return Objects(store)


class TestFiles(TensorStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> TensorStoreArrays:
        return TensorStoreArrays(tmp_path / "a memory.mc")


class TestFilesWithoutCache(TensorStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> TensorStoreArrays:
        return TensorStoreArrays(tmp_path.as_uri(), cache_bytes=0)


class TestMemory(TensorStoreSuite):
    @pytest.fixture
    def store(self) -> TensorStoreArrays:
        return TensorStoreArrays("memory://here/there")


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A folder with two shards of tokens and of gists."""
    store = TensorStoreArrays(tmp_path)
    for shard in range(2):
        store.write_shard(TOKENS, shard, example_rows(TOKENS, shard))
        store.write_shard(GISTS, shard, example_rows(GISTS, shard))
    return tmp_path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    with small_file_system(tmp_path / "disk", size="64k") as folder:
        yield folder


def test_another_zarr_implementation_reads_a_memory(filled: Path) -> None:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(filled / "arrays"), mode="r")
    assert set(group.array_keys()) == {"lod0", "lod1"}
    tokens = np.concatenate([example_rows(TOKENS, shard) for shard in range(2)])
    gists = np.concatenate([example_rows(GISTS, shard) for shard in range(2)])
    assert group["lod0"].dtype == np.uint32
    np.testing.assert_array_equal(group["lod0"][0:512], tokens)
    np.testing.assert_array_equal(group["lod1"][3:100], gists[3:100])


def test_tensorstore_opens_an_array_by_its_metadata_alone(filled: Path) -> None:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{filled}/arrays/lod1/"}}
    array = ts.open(spec, open=True).result()
    assert array.shape[1:] == GISTS.row_shape
    np.testing.assert_array_equal(array[64:128].read().result(), example_rows(GISTS, 1))


LAYOUT = {
    "zarr.json": '{"zarr_format": 3, "node_type": "group"}',
    "lod0/zarr.json": (
        '{"chunk_grid":{"configuration":{"chunk_shape":[256]},"name":"regular"},"chunk_key_encoding":{"name":"default"},'
        '"codecs":[{"configuration":{"chunk_shape":[64],"codecs":[{"configuration":{"endian":"little"},"name":"bytes"},'
        '{"configuration":{"checksum":false,"level":1},"name":"zstd"},{"name":"crc32c"}],"index_codecs":[{"configuration":'
        '{"endian":"little"},"name":"bytes"},{"name":"crc32c"}]},"name":"sharding_indexed"}],"data_type":"uint32",'
        '"fill_value":0,"node_type":"array","shape":[1099511627776],"zarr_format":3}'
    ),
    "lod1/zarr.json": (
        '{"chunk_grid":{"configuration":{"chunk_shape":[64,2,8]},"name":"regular"},"chunk_key_encoding":'
        '{"name":"default"},"codecs":[{"configuration":{"chunk_shape":[16,2,8],"codecs":[{"configuration":'
        '{"endian":"little"},"name":"bytes"},{"name":"crc32c"}],"index_codecs":[{"configuration":{"endian":"little"},'
        '"name":"bytes"},{"name":"crc32c"}]},"name":"sharding_indexed"}],"data_type":"float16","fill_value":0.0,'
        '"node_type":"array","shape":[1099511627776,2,8],"zarr_format":3}'
    ),
}


def test_the_layout_is_what_all_releases_wrote(filled: Path) -> None:
    """To the byte: what differs is damage, and a new release must not find any in an old memory."""
    folder = filled / "arrays"
    assert {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("zarr.json")} == LAYOUT


@pytest.mark.parametrize("spec", [TOKENS, GISTS], ids=lambda spec: spec.name)
def test_every_flipped_bit_of_a_shard_is_found_and_named(filled: Path, spec: object) -> None:
    assert spec in (TOKENS, GISTS)
    spec = TOKENS if spec is TOKENS else GISTS
    store = TensorStoreArrays(filled)
    name = store.object_name(spec, 1)
    intact = (filled / name).read_bytes()
    places = random.Random(0)
    for _ in range(60):
        flipped = bytearray(intact)
        flipped[places.randrange(len(intact))] ^= 1 << places.randrange(8)
        (filled / name).write_bytes(flipped)
        with pytest.raises(CorruptionError, match=name):
            store.read_shard(spec, 1)
        np.testing.assert_array_equal(store.read_shard(spec, 0), example_rows(spec, 0))


@pytest.mark.parametrize("length", [0, 10, 200, -1])
def test_a_shard_cut_short_is_found(filled: Path, length: int) -> None:
    store = TensorStoreArrays(filled)
    path = filled / store.object_name(GISTS, 0)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CorruptionError, match="lod1/c/0"):
        store.read(GISTS, 0, 1)


def test_a_check_sees_the_disk_and_not_the_cache(filled: Path) -> None:
    store = TensorStoreArrays(filled)
    np.testing.assert_array_equal(store.read(GISTS, 0, 64), example_rows(GISTS, 0))
    path = filled / store.object_name(GISTS, 0)
    path.write_bytes(bytes(len(path.read_bytes())))
    with pytest.raises(CorruptionError):
        store.read_shard(GISTS, 0)


def test_writing_a_shard_again_mends_it_for_all_readers(filled: Path) -> None:
    store = TensorStoreArrays(filled)
    path = filled / store.object_name(GISTS, 1)
    path.write_bytes(b"")
    with pytest.raises(CorruptionError):
        store.read(GISTS, 64, 65)
    store.write_shard(GISTS, 1, example_rows(GISTS, 1))
    np.testing.assert_array_equal(store.read(GISTS, 64, 128), example_rows(GISTS, 1))
    np.testing.assert_array_equal(TensorStoreArrays(filled).read(GISTS, 64, 128), example_rows(GISTS, 1))


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", None])
def test_damaged_metadata_is_named_and_mended_by_the_next_write(filled: Path, content: bytes | None) -> None:
    metadata = filled / "arrays" / "lod1" / "zarr.json"
    if content is None:
        metadata.unlink()
    else:
        metadata.write_bytes(content)
    store = TensorStoreArrays(filled)
    with pytest.raises(CorruptionError, match=r"lod1/zarr\.json"):
        store.read(GISTS, 0, 1)
    store.write_shard(GISTS, 1, example_rows(GISTS, 1))
    np.testing.assert_array_equal(TensorStoreArrays(filled).read(GISTS, 0, 64), example_rows(GISTS, 0))


READ_ALL = """
import sys
from megacontext.errors import StorageError
from megacontext.storage.arrays import TensorStoreArrays
from megacontext.testing.array_store_suite import TOKENS
store = TensorStoreArrays(sys.argv[1])
for read in (lambda: store.read(TOKENS, 0, 4), lambda: store.read_shard(TOKENS, 0)):
    try:
        read()
    except StorageError as error:
        print(f"{type(error).__name__}: {error} <- {str(error.__cause__).partition(':')[0]}")
"""


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root without setpriv reads everywhere")
@pytest.mark.parametrize(("locked", "num_refused"), [("lod0/c/0", 2), ("lod0/zarr.json", 1)])
def test_what_may_not_be_read_is_named_with_what_to_do(filled: Path, locked: str, num_refused: int) -> None:
    """A shard can be read without the file that describes it."""
    unprivileged = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    (filled / "arrays" / locked).chmod(0)
    done = subprocess.run(
        [*unprivileged, sys.executable, "-c", READ_ALL, filled], capture_output=True, text=True, check=True
    )
    problem = f"arrays/{locked} cannot be read (Permission denied); make it and its folders readable"
    assert done.stdout.splitlines() == [f"StorageError: {problem} <- PERMISSION_DENIED"] * num_refused


@pytest.mark.parametrize(
    ("text", "doing", "kind", "message"),
    [
        ("PERMISSION_DENIED: no", "reading rows", StorageError, "x cannot be read (Permission denied); make it"),
        (
            "PERMISSION_DENIED: no",
            "writing x",
            MemoryReadOnlyError,
            "not permitted while writing x (Permission denied)",
        ),
        ("RESOURCE_EXHAUSTED: no", "writing x", StorageFullError, "no space left while writing x"),
        (f"UNKNOWN: no [os_error_code='{errno.EIO}']", "reading rows", StorageError, "reading rows failed at x: Input"),
        ("NOT_FOUND: no", "reading rows", CorruptionError, "x is missing (reading rows); run 'megacontext check"),
        ("DATA_LOSS: no", "reading rows", CorruptionError, "x fails its checksum (reading rows); run"),
    ],
)
def test_what_tensorstore_reports_is_said_in_our_words(text: str, doing: str, kind: type, message: str) -> None:
    fault = tensorstore_fault(ValueError(text), doing=doing, object_name="x")
    assert type(fault) is kind
    assert str(fault).startswith(message)


@pytest.mark.parametrize("name", ["arrays/lod0/c/0", "arrays/lod0/zarr.json"])
def test_a_folder_in_the_place_of_a_file_is_named_and_left_there(filled: Path, name: str) -> None:
    (filled / name).unlink()
    (filled / name / "mine").mkdir(parents=True)
    with pytest.raises(StorageError, match=rf"^{name} is a folder .*: remove what .* 'megacontext check --repair'$"):
        TensorStoreArrays(filled).write_shard(TOKENS, 0, example_rows(TOKENS, 0))
    assert (filled / name / "mine").exists()


def test_metadata_of_another_shape_is_damage(filled: Path) -> None:
    metadata = filled / "arrays" / "lod1" / "zarr.json"
    metadata.write_text(metadata.read_text().replace("1099511627776", "1099511627760"))
    with pytest.raises(CorruptionError, match=r"lod1/zarr\.json"):
        TensorStoreArrays(filled).read(GISTS, 0, 1)


def test_a_reader_may_come_before_the_writer(tmp_path: Path) -> None:
    reader = TensorStoreArrays(tmp_path)
    with pytest.raises(CorruptionError):
        reader.read(TOKENS, 0, 1)
    TensorStoreArrays(tmp_path).write_shard(TOKENS, 0, example_rows(TOKENS, 0))
    np.testing.assert_array_equal(reader.read(TOKENS, 0, 256), example_rows(TOKENS, 0))


def test_locks_of_killed_writers_are_removed(filled: Path) -> None:
    orphan = filled / "arrays" / "lod1" / "c" / "5.__lock"
    orphan.touch()
    store = TensorStoreArrays(filled)
    foreign = filled / "arrays" / "mine" / "c" / "0"
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    assert [one.object_name for one in store.remove_orphans({})] == ["arrays/lod1/c/5.__lock"]
    assert not orphan.exists()
    assert foreign.exists()
    np.testing.assert_array_equal(store.read_shard(GISTS, 1), example_rows(GISTS, 1))


def test_rows_of_another_shape_are_our_own_mistake(tmp_path: Path) -> None:
    store = TensorStoreArrays(tmp_path)
    with pytest.raises(InvariantError, match="lod0"):
        store.write_shard(TOKENS, 0, np.zeros(255, dtype=np.uint32))
    with pytest.raises(InvariantError, match="lod0"):
        store.write_shard(TOKENS, 0, np.zeros(256, dtype=np.int64))


def test_a_full_disk_is_named_and_what_was_written_stays(small_disk: Path) -> None:
    store = TensorStoreArrays(small_disk)
    shard = 0
    with pytest.raises(StorageFullError, match="no space left"):  # noqa: PT012 - which shard it is depends on the disk
        while True:
            store.write_shard(GISTS, shard, example_rows(GISTS, shard))
            shard += 1
    assert shard > 0
    np.testing.assert_array_equal(
        TensorStoreArrays(small_disk).read_shard(GISTS, shard - 1), example_rows(GISTS, shard - 1)
    )
    with pytest.raises(CorruptionError, match="missing"):
        store.read_shard(GISTS, shard)


@pytest.mark.parametrize("limit", [0, 300, 1000])
def test_a_limit_on_file_sizes_is_a_full_disk(tmp_path: Path, limit: int) -> None:
    """Of the layout at first, then of the shard itself; with room again, the same shard can be written."""
    store = TensorStoreArrays(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(StorageFullError, match=r"no space left .*File too large"):
            store.write_shard(GISTS, 0, example_rows(GISTS, 0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(CorruptionError, match="missing"):
        store.read_shard(GISTS, 0)
    store.write_shard(GISTS, 0, example_rows(GISTS, 0))
    np.testing.assert_array_equal(store.read(GISTS, 0, 64), example_rows(GISTS, 0))
    assert store.remove_orphans({}) == []


def test_read_only_media_is_read_and_not_written(small_disk: Path) -> None:
    TensorStoreArrays(small_disk).write_shard(GISTS, 0, example_rows(GISTS, 0))
    assert mounted("-o", "remount,ro", str(small_disk))
    store = TensorStoreArrays(small_disk)
    np.testing.assert_array_equal(store.read_shard(GISTS, 0), example_rows(GISTS, 0))
    with pytest.raises(MemoryReadOnlyError):
        store.write_shard(GISTS, 1, example_rows(GISTS, 1))


@pytest.mark.parametrize("num_left", [1, 5000])
def test_what_a_killed_writer_left_does_not_reach_the_next_shard(tmp_path: Path, num_left: int) -> None:
    store = TensorStoreArrays(tmp_path / "m")
    rows = [example_rows(TOKENS, shard) for shard in (0, 1)]
    store.write_shard(TOKENS, 0, rows[0])
    (tmp_path / "m" / f"{store.object_name(TOKENS, 1)}.__lock").write_bytes(b"x" * num_left)
    store.write_shard(TOKENS, 1, rows[1])
    np.testing.assert_array_equal(store.read_shard(TOKENS, 1), rows[1])
    np.testing.assert_array_equal(store.read(TOKENS, 0, 2 * TOKENS.shard_rows), np.concatenate(rows))
    assert store.remove_orphans({}) == []


def test_removed_orphans_leave_no_folders_and_the_first_goes_last(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that whoever is killed while removing leaves what the next one looks for."""
    store = TensorStoreArrays(filled)
    for shard in range(2, 12):
        store.write_shard(TOKENS, shard, example_rows(TOKENS, shard))
    in_use = {TOKENS.name: 2, GISTS.name: 0}
    wanted = [store.object_name(GISTS, shard) for shard in (1, 0)]
    wanted += [store.object_name(TOKENS, shard) for shard in range(11, 1, -1)]
    assert [orphan.object_name for orphan in store.remove_orphans(in_use)] == wanted
    assert sorted(path.name for path in (filled / "arrays" / "lod1").iterdir()) == ["zarr.json"]
