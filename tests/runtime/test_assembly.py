from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import megacontext as mc
from megacontext.errors import (
    BaseMismatchError,
    BaseModelError,
    InvalidTokensError,
    InvalidValueError,
    MemoryExistsError,
    MemoryLockedError,
    MemoryNotFoundError,
    MemoryReadOnlyError,
    UnknownNameError,
)
from megacontext.gisters.registry import make_gister
from megacontext.runtime import assembly
from megacontext.runtime.base_source import LoadedBase
from megacontext.runtime.shapes import DEFAULT_GISTER
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.fake_core import tiny_core_base


def test_open_creates_once_and_then_opens_what_is_there(tmp_path, base):
    with mc.open(tmp_path / "m", base=base, create=True, block_tokens=16) as memory:
        memory.append([1, 2, 3])
    with mc.open(tmp_path / "m", base=base, create=True) as memory:
        assert memory.num_tokens == 3
        assert memory.info.block_tokens == 16
        assert memory.info.gister_name == DEFAULT_GISTER


def test_a_base_that_learned_gists_makes_them_by_default(tmp_path):
    base = tiny_core_base()
    with assembly.open(tmp_path / "learned.mc", base=base, create=True) as memory:
        assert memory.info.gister_name == "gistnet"
    with assembly.open(tmp_path / "mean.mc", base=base, create=True, gister="mean") as memory:
        assert memory.info.gister_name == "mean"


def test_a_shape_that_gists_were_never_taught_for_is_said_once(tmp_path, caplog):
    base = tiny_core_base()
    assembly.open(tmp_path / "unknown.mc", base=base, create=True, block_tokens=64).close()
    base.info = replace(base.info, trained_shapes=((8, 1), (32, 1), (32, 4)))
    assembly.open(tmp_path / "taught.mc", base=base, create=True, gist_width=4).close()
    assembly.open(tmp_path / "mean.mc", base=base, create=True, gister="mean", block_tokens=64).close()
    assert not caplog.messages
    assembly.open(tmp_path / "new.mc", base=base, create=True, block_tokens=64).close()
    assembly.open(tmp_path / "new.mc", base=base).close()
    (line,) = caplog.messages
    assert "never taught for block_tokens 64 with gist_width 1" in line
    assert "block_tokens 8 (gist_width 1); 32 (gist_width 1, 4): use one of those, or gister 'extractive'" in line


def test_a_memory_is_read_without_its_base(tmp_path, base):
    """The recorded name ``tiny-qwen3`` is no base that could be found again."""
    with mc.open(tmp_path / "m", base=base, create=True, gister="mean") as memory:
        memory.append_text("Some text.", source="note")
    with mc.open(tmp_path / "m", read_only=True) as memory:
        assert memory.sources()[0].uri == "note"
        assert memory.tokens(0, 4).tolist() == list(b"Some")
        with pytest.raises(BaseModelError, match=r"made with the base tiny-qwen3.*`megacontext regist .* --base NEW`"):
            memory.text(0, 4)


def test_another_base_is_refused_with_both_fingerprints(tmp_path, base):
    mc.open(tmp_path / "m", base=base, create=True).close()
    other = tiny_base(seed=1)
    with pytest.raises(BaseMismatchError) as caught:
        mc.open(tmp_path / "m", base=other)
    assert base.info.fingerprint[:12] in str(caught.value)
    assert other.info.fingerprint[:12] in str(caught.value)


@pytest.mark.parametrize("options", [{"gister": "mean"}, {"block_tokens": 16}, {"gist_width": 2}])
def test_what_is_fixed_cannot_be_opened_differently(tmp_path, base, options):
    mc.open(tmp_path / "m", base=base, create=True).close()
    with pytest.raises(BaseMismatchError, match=next(iter(options))):
        mc.open(tmp_path / "m", base=base, **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"gister": "poet"}, UnknownNameError),
        ({"block_tokens": 7}, InvalidValueError),
        ({"block_tokens": 129}, InvalidValueError),
        ({"gist_width": 0}, InvalidValueError),
        ({"base": "nonsense"}, UnknownNameError),
        ({"base": "./no/such/folder"}, BaseModelError),
        ({"base": "reference", "dtype": "int3"}, InvalidValueError),
    ],
)
def test_impossible_options_leave_nothing_behind(tmp_path, base, options, error):
    with pytest.raises(error):
        mc.open(tmp_path / "m", create=True, **{"base": base, **options})
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_while_a_memory_is_made_leaves_nothing_behind(tmp_path, base, monkeypatch):
    def full(*arguments):
        raise mc.MegaContextError("no space left")

    monkeypatch.setattr("megacontext.catalog.sqlite.SqliteCatalog.create", full)
    with pytest.raises(mc.MegaContextError, match="no space"):
        mc.open(tmp_path / "m", base=base, create=True)
    assert list(tmp_path.iterdir()) == []


def test_a_memory_that_several_make_at_once_is_one(tmp_path, base):
    """Whoever comes second gets the memory of the first, and nothing that was acknowledged is lost."""
    place, together = tmp_path / "m", threading.Barrier(4)

    def write(name):
        together.wait()
        with mc.open(place, base=base, create=True, gister="mean") as memory:
            for _ in range(200):
                try:
                    memory.append_text("A line.\n", source=name)
                    break
                except MemoryLockedError:
                    time.sleep(0.02)
            return memory.info.created_at

    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(write, "abcd"))
    assert len(made) == 1
    with mc.open(place, base=base, read_only=True) as memory:
        assert {source.uri for source in memory.sources()} == set("abcd")
        assert memory.check().ok


def test_who_makes_a_memory_that_is_made_meanwhile_is_told(tmp_path, base, monkeypatch):
    def elsewhere(path, doing, made=assembly.WriterLock):
        monkeypatch.setattr(assembly, "WriterLock", made)
        mc.open(tmp_path / "m", base=base, create=True).close()
        return made(path, doing=doing)

    monkeypatch.setattr(assembly, "WriterLock", elsewhere)
    with pytest.raises(MemoryExistsError, match="there is a memory at"):
        assembly.create(tmp_path / "m", base=base)


def test_places_that_hold_no_memory(tmp_path, base):
    with pytest.raises(MemoryNotFoundError):
        mc.open(tmp_path / "m")
    with pytest.raises(MemoryNotFoundError):
        mc.open(tmp_path / "m", create=True, read_only=True)
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(MemoryExistsError):
            mc.open(place, base=base, create=True)
    mc.open(tmp_path / "m", base=base, create=True).close()
    with pytest.raises(MemoryExistsError):
        assembly.create(tmp_path / "m", base=base)


@pytest.mark.parametrize("place", ["s3://bucket/prefix", "gs://bucket/prefix", "memory://name", ""])
def test_places_that_are_no_folder_say_what_works(place, base):
    with pytest.raises(InvalidValueError, match="folder"):
        mc.open(place, base=base, create=True)


def test_readers_read_while_one_writes(tmp_path, base):
    with mc.open(tmp_path / "m", base=base, create=True, gister="mean") as writer:
        writer.append(np.arange(100) % 256)
        with (
            mc.open(tmp_path / "m", base=base, read_only=True) as reader,
            reader.session(budget_entries=128) as session,
        ):
            with pytest.raises(MemoryReadOnlyError):
                reader.append([1])
            writer.append(np.arange(50))
            assert reader.refresh() == 150
            session.refocus()
            assert session.working_context.num_tokens == 150
        with mc.open(tmp_path / "m", base=base) as second, pytest.raises(MemoryLockedError):
            second.append([1])


@pytest.mark.parametrize("token_ids", [[-1], [256], [1.5], [[1, 2]], [], ["a"], [True]])
def test_bad_tokens_leave_the_memory_as_it_was(memory, token_ids):
    before = (memory.num_tokens, memory.sources())
    with pytest.raises(InvalidTokensError):
        memory.append(token_ids)
    assert (memory.num_tokens, memory.sources()) == before


def test_a_base_in_memory_serves_embeddings_like_one_on_disk(base):
    source = LoadedBase(base)
    token_ids = np.array([[1, 2], [3, 4]])
    rows = source.embeddings.rows(token_ids)
    assert rows.shape == (2, 2, base.info.dim)
    np.testing.assert_array_equal(rows[1, 0], base.embed(np.array([3], np.uint32))[0].numpy())
    assert source.load() is base
    assert make_gister("mean", source).name == "mean"
