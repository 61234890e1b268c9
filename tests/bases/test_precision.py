"""Which precision a model is computed in."""

from __future__ import annotations

import pytest
import torch

from megacontext.bases import precision
from megacontext.bases.precision import chosen_dtype, multiplies_bfloat16, working_dtype
from megacontext.units import GIB

CPU = torch.device("cpu")


def machine(monkeypatch: pytest.MonkeyPatch, *units: str, memory: int = 16 * GIB) -> None:
    """A processor that has these units."""
    told = {"avx2": True, "amx_bf16": False, "avx512_bf16": False, **dict.fromkeys(units, True)}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told)
    monkeypatch.setattr(precision, "memory_bytes", lambda: memory)


@pytest.mark.parametrize("unit", ["amx_bf16", "avx512_bf16", "bf16"])
def test_with_units_weights_stay_as_they_are_stored(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    machine(monkeypatch, unit)
    assert multiplies_bfloat16(CPU)
    assert working_dtype(CPU) == torch.bfloat16
    assert chosen_dtype("auto", "bfloat16", CPU, stored_bytes=GIB) == torch.bfloat16
    assert chosen_dtype("auto", "float32", CPU, stored_bytes=GIB) == torch.float32
    assert chosen_dtype("auto", "float16", CPU, stored_bytes=GIB) == torch.float32


def test_without_units_weights_are_widened_while_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    assert working_dtype(CPU) == torch.float32
    assert chosen_dtype("auto", "bfloat16", CPU, stored_bytes=2 * GIB) == torch.float32
    assert chosen_dtype("auto", "bfloat16", CPU, stored_bytes=2 * GIB + 1) == torch.bfloat16
    machine(monkeypatch, memory=0)  # a system that does not say what it has
    assert chosen_dtype("auto", "bfloat16", CPU, stored_bytes=1) == torch.bfloat16


def test_what_is_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    assert chosen_dtype("bfloat16", "float32", CPU, stored_bytes=1) == torch.bfloat16
    machine(monkeypatch, "avx512_bf16")
    assert chosen_dtype("float32", "bfloat16", CPU, stored_bytes=1) == torch.float32


@pytest.mark.parametrize(("has_units", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_gpu(monkeypatch: pytest.MonkeyPatch, has_units: bool, expected: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_units)
    for stored in ("bfloat16", "float16", "float32"):
        assert chosen_dtype("auto", stored, torch.device("cuda"), stored_bytes=1) == expected
