"""Memory that runs out: one line with what was needed, what there is, and a setting that fits."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import megacontext as mc
from megacontext.bases import memory_limits
from megacontext.bases.kv_cache import KVCache
from megacontext.bases.memory_limits import check_weights_fit, weights_explained, window_explained
from megacontext.bases.registry import load_base
from megacontext.errors import DeviceMemoryError
from megacontext.ports.base import Base
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.fake_core import tiny_core_base
from megacontext.units import GIB, MIB

CUDA = torch.device("cuda", 0)
CUDA_SAYS = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB"


@pytest.fixture
def small_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of 8 GiB of which 1 GiB is free, as torch would tell of it."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


def one_line(raised: pytest.ExceptionInfo[BaseException]) -> str:
    line = str(raised.value)
    assert "\n" not in line
    return line


def full_cache(monkeypatch: pytest.MonkeyPatch, most_entries: int) -> None:
    """An allocator that has room for windows of so many entries and no more."""
    room = KVCache._room

    def with_limit(self: KVCache, buffer: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        if self.num_entries + new.shape[2] > most_entries:
            raise torch.OutOfMemoryError(CUDA_SAYS)
        return room(self, buffer, new)

    monkeypatch.setattr(KVCache, "_room", with_limit)


@pytest.mark.parametrize("make", [lambda: tiny_base("llama"), tiny_core_base], ids=["transformers", "core"])
def test_a_window_that_does_not_fit_names_one_that_does(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base: Base = make()
    monkeypatch.setattr(memory_limits, "available_bytes", lambda: 100 * MIB)
    full_cache(monkeypatch, 64)
    ids = np.arange(100, dtype=np.uint32)
    cache = base.new_cache(128)
    base.forward(base.embed(ids[:60]), np.arange(60.0), cache)
    with pytest.raises(DeviceMemoryError) as raised:
        base.forward(base.embed(ids[60:]), np.arange(60.0, 100.0), cache)
    line = one_line(raised)
    assert base.info.name in line
    assert "a window of 100 entries with room for 128 keeps" in line  # as many as a session was given
    assert "the machine has 100.0 MiB free" in line
    fitting = int(re.search(r"budget_entries=(\d+)", line)[1])  # type: ignore[index]
    assert 1 <= fitting <= 64
    assert cache.num_entries == 60  # as it was
    base.forward(base.embed(ids[:fitting]), np.arange(float(fitting)), base.new_cache(fitting))


def test_a_batch_and_scoring_that_do_not_fit_are_said_too(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("llama")
    full_cache(monkeypatch, 4)
    caches = [base.new_cache(4) for _ in range(2)]
    for cache in caches:
        base.forward(base.embed(np.arange(4, dtype=np.uint32)), np.arange(4.0), cache)
    with pytest.raises(DeviceMemoryError, match="a window of 10 entries"):
        base.decode_batch(base.embed(np.arange(2, dtype=np.uint32)), np.full(2, 4.0), caches)
    assert [cache.num_entries for cache in caches] == [4, 4]
    monkeypatch.setattr(base, "_model", lambda **given: (_ for _ in ()).throw(torch.OutOfMemoryError(CUDA_SAYS)))
    with pytest.raises(DeviceMemoryError, match="a window of 8 entries"):
        base.surprise(np.zeros((1, 8), dtype=np.uint32))


def test_a_session_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("llama")
    with mc.open(tmp_path / "one.mc", base=base, create=True, gister="mean") as memory:
        memory.append_text("The quick brown fox jumps over the lazy dog. " * 30, source="fox")
        with memory.session(budget_entries=256) as session:
            full_cache(monkeypatch, 64)
            with pytest.raises(DeviceMemoryError, match=r"with room for 256 .* use budget_entries=128 ") as raised:
                session.nll(memory.tokens(0, 8))
        one_line(raised)


def test_room_for_a_budget_that_nothing_can_hold_is_named(tmp_path: Path) -> None:
    base = tiny_base("llama")
    base.info = dataclasses.replace(base.info, max_positions=1 << 60)
    with mc.open(tmp_path / "one.mc", base=base, create=True, gister="mean") as memory:
        memory.append_text("A fox.", source="fox")
        with (
            memory.session(budget_entries=1 << 50) as session,
            pytest.raises(DeviceMemoryError, match=r"window of 1,125,899,906,842,624 entries .* use budget_entries="),
        ):
            session.nll(memory.tokens(0, 2))


def test_the_numbers_are_those_of_the_device(small_gpu: None) -> None:
    def run(num_entries: int, entry_bytes: int, dtype: torch.dtype = torch.float32) -> str:
        with (
            pytest.raises(DeviceMemoryError) as raised,
            window_explained("tiny", CUDA, dtype, num_entries=num_entries, entry_bytes=entry_bytes),
        ):
            raise torch.OutOfMemoryError(CUDA_SAYS)
        return one_line(raised)

    assert run(65536, 1 << 17) == (
        "tiny: a window of 65,536 entries keeps 8.0 GiB of keys and values and needs more to be computed, but cuda:0 "
        "has 1.0 GiB free; use budget_entries=4096 or less, or dtype='bfloat16'"
    )
    assert "budget_entries=32 or less" in run(100, 1024)  # at most half of what failed, though more would have room
    assert "bfloat16" not in run(65536, 1 << 17, torch.bfloat16)


def test_other_errors_pass_as_they_are() -> None:
    with (
        pytest.raises(RuntimeError, match="shapes"),
        window_explained("tiny", torch.device("cpu"), torch.float32, num_entries=1, entry_bytes=1),
    ):
        raise RuntimeError("shapes cannot be multiplied")


def test_a_real_allocation_that_is_too_large_is_recognised() -> None:
    with (
        pytest.raises(DeviceMemoryError, match="a window of 4 entries"),
        window_explained("tiny", torch.device("cpu"), torch.float32, num_entries=4, entry_bytes=1),
    ):
        torch.empty(1 << 55)


def test_weights_that_cannot_fit_are_refused_before_they_are_read(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    stored_bytes = (folder / "model.safetensors").stat().st_size
    monkeypatch.setattr(memory_limits, "memory_bytes", lambda: int(1.5 * stored_bytes))
    import megacontext.bases.loading as loading

    read = loading.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", lambda *given, **more: 1 / 0)
    with pytest.raises(
        DeviceMemoryError, match=r"take .* in float32, but the machine has .*dtype='bfloat16'"
    ) as raised:
        load_base(str(folder), dtype="float32", device="cpu")
    one_line(raised)
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", read)
    assert load_base(str(folder), dtype="bfloat16", device="cpu").info.dtype == "bfloat16"
    monkeypatch.setattr(memory_limits, "memory_bytes", lambda: stored_bytes // 2)
    with pytest.raises(DeviceMemoryError, match="use a smaller model"):
        load_base(str(folder), dtype="bfloat16", device="cpu")


def test_weights_on_a_device(small_gpu: None) -> None:
    told: dict[str, Any] = {"stored": "bfloat16", "stored_bytes": 5 * GIB}
    check_weights_fit("big", CUDA, torch.bfloat16, **told)
    with pytest.raises(DeviceMemoryError, match=r"10.0 GiB in float32, but cuda:0 has 8.0 GiB; use dtype='bfloat16'"):
        check_weights_fit("big", CUDA, torch.float32, **told)
    with (
        pytest.raises(
            DeviceMemoryError, match=r"5.0 GiB in bfloat16, but cuda:0 has 1.0 GiB free; use a smaller"
        ) as raised,
        weights_explained("big", CUDA, torch.bfloat16, **told),
    ):
        raise torch.OutOfMemoryError(CUDA_SAYS)
    one_line(raised)
