"""The checks of a ported base: they pass a good one, and each finds the damage that it is there for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from megacontext.bases.huggingface import HuggingFaceBase
from megacontext.evaluation.porting.checks import CHECKS, Probe, check_base, compare_precision
from megacontext.ports.base import SupportsBatches, SupportsPatch, SupportsPlainLogits
from megacontext.testing.fake_core import tiny_core_base
from megacontext.testing.tiny_families import family_base, family_config

TEXT = "The quick brown fox jumps over the lazy dog, and the dog did not even bark at the fox. " * 2


@pytest.fixture
def base() -> HuggingFaceBase:
    return family_base(family_config("llama"))


def failed(base: Any) -> set[str]:
    return {result.name for result in check_base(base, TEXT) if not result.passed}


def test_a_good_base_passes_and_says_what_was_measured(base: HuggingFaceBase) -> None:
    results = check_base(base, TEXT)
    assert [result.name for result in results] == [*CHECKS]
    for result in results:
        assert result.passed
        assert result.error is not None
        assert result.error <= result.limit
        assert result.detail
        assert "\n" not in result.detail


def test_what_a_base_does_not_promise_is_passed_over() -> None:
    core = tiny_core_base()
    results = {result.name: result for result in check_base(core, TEXT)}
    assert not isinstance(core, SupportsPlainLogits)
    assert results["tokens"].error is None
    assert results["cache"].error is not None
    assert all(result.passed for result in results.values())


def damaged_forward(base: HuggingFaceBase, damage: Any) -> HuggingFaceBase:
    """The base with logits that ``damage(logits, inputs, positions, cache before)`` changes."""
    run = base.forward

    def forward(inputs_TD: Any, positions_T: Any, cache: Any, **options: Any) -> Any:
        num_cached = cache.num_entries
        return damage(run(inputs_TD, positions_T, cache, **options), inputs_TD, positions_T, num_cached)

    base.forward = forward  # type: ignore[method-assign]
    return base


def test_other_logits_than_the_plain_model_are_found(base: HuggingFaceBase) -> None:
    damaged_forward(base, lambda logits, *_: logits * 1.01)
    assert "tokens" in failed(base)
    assert "cache" not in failed(base)  # it is wrong alike in pieces and whole


def test_a_cache_that_forgets_is_found(base: HuggingFaceBase) -> None:
    damaged_forward(base, lambda logits, _inputs, _positions, cached: logits * (1.01 if cached else 1.0))
    assert {"cache", "mixed"} <= failed(base)


def test_positions_that_are_rounded_are_found(base: HuggingFaceBase) -> None:
    run = base.forward
    base.forward = lambda inputs, positions, cache, **options: run(  # type: ignore[method-assign]
        inputs, positions.astype(np.float32).astype(np.float64), cache, **options
    )
    assert failed(base) == {"far"}


def test_positions_that_are_whole_are_found_among_gists(base: HuggingFaceBase) -> None:
    run = base.forward

    def whole_after_the_first(inputs: Any, positions: Any, cache: Any, **options: Any) -> Any:
        return run(inputs, np.floor(positions) if cache.num_entries else positions, cache, **options)

    base.forward = whole_after_the_first  # type: ignore[method-assign]
    assert failed(base) == {"mixed"}


@pytest.mark.parametrize(("check", "method"), [("patch", "patch"), ("batch", "decode_batch")])
def test_a_patch_and_a_batch_that_differ_are_found(base: HuggingFaceBase, check: str, method: str) -> None:
    run = getattr(base, method)
    setattr(base, method, lambda *given, **options: run(*given, **options) * 1.01)
    assert failed(base) == {check}
    assert isinstance(base, SupportsPatch)
    assert isinstance(base, SupportsBatches)


def test_overflow_at_large_norms_is_found(base: HuggingFaceBase) -> None:
    usual = float(base.embed(np.arange(200, dtype=np.uint32)).norm(dim=-1).max())

    def overflow(logits: torch.Tensor, inputs_TD: torch.Tensor, *_: Any) -> torch.Tensor:
        return logits * (math.inf if float(inputs_TD.norm(dim=-1).max()) > 8 * usual else 1.0)

    damaged_forward(base, overflow)
    assert failed(base) == {"finite"}
    assert "gists 16 times as long" in CHECKS["finite"](Probe.of_text(base, TEXT)).detail


def test_a_tokenizer_that_changes_text_is_found(base: HuggingFaceBase) -> None:
    decode = base.codec.decode
    base.codec.decode = lambda ids: decode(ids).lower()  # type: ignore[method-assign]
    assert failed(base) == {"tokenizer"}


def test_a_precision_is_compared_with_float32() -> None:
    config = family_config("llama")
    exact = family_base(config)
    probe = Probe.of_text(family_base(config, dtype="bfloat16"), TEXT)
    assert compare_precision(probe, exact).passed
    assert not compare_precision(probe, family_base(config, seed=1)).passed
    same = compare_precision(Probe.of_text(exact, TEXT), exact)
    assert same.error == 0
