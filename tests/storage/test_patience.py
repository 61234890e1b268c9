"""No read of a store hangs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from megacontext.errors import CorruptionError, StorageTimeoutError
from megacontext.storage.arrays import TensorStoreArrays
from megacontext.storage.listing import has_object, sized_objects
from megacontext.storage.patience import DOUBTED_SHARE, Patience
from megacontext.storage.read_ahead import CACHE_SHARE, ReadAhead
from megacontext.testing.array_store_suite import GISTS, TOKENS, example_rows


@pytest.fixture
def silent_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server that accepts every connection and never says a word."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        over, callers = threading.Event(), []

        def accept() -> None:
            while not over.is_set():
                try:
                    callers.append(server.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1]
        over.set()
        thread.join()
        for caller in callers:
            caller.close()


def test_a_store_that_never_answers_is_an_error_and_no_hang(silent_port: int) -> None:
    url = f"s3://bucket/memory?endpoint=http://127.0.0.1:{silent_port}&aws_region=us-east-1"
    store = TensorStoreArrays(url, read_timeout_s=0.3)
    with pytest.raises(StorageTimeoutError, match=r"lod0.*took too long.*read_timeout_s"):
        store.read(TOKENS, 0, 1)
    with pytest.raises(StorageTimeoutError):
        store.read_shard(TOKENS, 0)
    assert [type(found) for found in store.read_each(GISTS, [(0, 1), (5, 9)])] == [StorageTimeoutError] * 2
    with pytest.raises(StorageTimeoutError):
        store.damaged_layout([TOKENS])
    with pytest.raises(StorageTimeoutError):
        store.num_bytes()
    store.prefetch(TOKENS, [(0, 64)])  # nothing to wait for


def test_a_listing_whose_store_does_not_even_open_is_that_error_too() -> None:
    """Some stores only wait when they are first used, others while they are opened."""
    patience = Patience(100.0)

    def open_kvstore() -> Never:
        return patience.wait(Never(), patience.end())

    with pytest.raises(StorageTimeoutError, match=r"reading sizes took too long: arrays .*read_timeout_s"):
        sized_objects(None, open_kvstore, "arrays", patience)
    with pytest.raises(StorageTimeoutError, match=r"looking for arrays/c/0 took too long"):
        has_object(None, open_kvstore, "arrays", "c/0", patience)


class Never:
    def result(self, timeout: float) -> None:
        raise TimeoutError


class There:
    def done(self) -> bool:
        return True

    def result(self, timeout: float) -> str:
        return "rows"


def test_after_one_wait_in_vain_others_are_short_and_what_is_there_is_given() -> None:
    patience = Patience(100.0)
    assert patience.end() - time.monotonic() > 90.0
    with pytest.raises(TimeoutError):
        patience.wait(Never(), patience.end())
    assert patience.is_doubting
    assert patience.end() - time.monotonic() <= DOUBTED_SHARE * 100.0
    assert patience.wait(There(), 0.0) == "rows"
    assert [type(found) for found in patience.gather([There(), Never(), There()], 0.0)] == [str, TimeoutError, str]


def test_what_was_fetched_ahead_is_read_from_the_cache_alone(tmp_path) -> None:
    store = TensorStoreArrays(tmp_path / "memory")
    for shard in range(2):
        store.write_shard(TOKENS, shard, example_rows(TOKENS, shard))
    reader = TensorStoreArrays(tmp_path / "memory")
    reader.read(TOKENS, 0, 1)  # opens the array
    reader.prefetch(TOKENS, [(300, 310), (60, 70), (5, 5)])
    for read in list(reader._ahead._under_way):
        read.result()
    (tmp_path / "memory" / store.object_name(TOKENS, 1)).unlink()
    assert reader.read(TOKENS, 300, 320).tolist() == example_rows(TOKENS, 1)[44:64].tolist()
    with pytest.raises(CorruptionError):
        reader.read(TOKENS, 400, 401)  # of another chunk


class Rows:
    """An array that notes what is read of it."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __getitem__(self, rows: slice) -> Rows:
        self.asked.append(rows.start)
        return self

    def read(self) -> There:
        return There()


def test_the_same_guess_is_fetched_once_and_no_more_than_its_share_of_the_cache() -> None:
    array, num_chunks = Rows(), 3
    ahead = ReadAhead(cache_bytes=CACHE_SHARE * num_chunks * TOKENS.chunk_bytes)
    ahead.fetch(TOKENS, array, [0, 1])
    ahead.fetch(TOKENS, array, [0, 1])
    assert array.asked == [0, 64]
    ahead.fetch(TOKENS, array, [2, 3])  # pushes out the first
    ahead.fetch(TOKENS, array, [3, 0])
    assert array.asked == [0, 64, 128, 192, 0]
    ahead.forget()
    ahead.fetch(TOKENS, array, [3])
    assert array.asked[5:] == [192]
    ReadAhead(cache_bytes=0).fetch(TOKENS, array, [0])
    assert len(array.asked) == 6
