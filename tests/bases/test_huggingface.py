"""The adapter against plain transformers, in every family and precision that we promise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers

from megacontext.bases import scoring
from megacontext.bases.huggingface import HuggingFaceBase
from megacontext.errors import BaseModelError, InvalidTokensError, InvalidValueError
from megacontext.ports.base import Base, SupportsAttentionMass, SupportsSurprise
from megacontext.testing.fake_base import tiny_base, tiny_model

FAMILIES = ("llama", "qwen2", "qwen3")


def token_ids(count: int, seed: int = 0) -> npt.NDArray[np.uint32]:
    return np.random.default_rng(seed).integers(0, 256, count).astype(np.uint32)


def window(count: int, start: float = 0.0) -> npt.NDArray[np.float64]:
    return np.arange(count, dtype=np.float64) + start


def plain_logits(model: transformers.PreTrainedModel, ids: npt.NDArray[np.uint32]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].float()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_window_of_raw_tokens_is_the_plain_model(family: str, dtype: str) -> None:
    base = tiny_base(family, dtype=dtype)
    ids = token_ids(150)
    logits = base.forward(base.embed(ids), window(150), base.new_cache(150), num_logits=150)
    assert torch.equal(logits, plain_logits(tiny_model(family, dtype=dtype), ids))
    assert isinstance(base, Base)
    assert isinstance(base, SupportsSurprise)
    assert isinstance(base, SupportsAttentionMass)


@pytest.mark.parametrize("start", [0.5, 4000.25, 1e6, 2.0**31, 2.0**40])
def test_only_differences_of_positions_matter_however_far_they_are(start: float) -> None:
    base = tiny_base()
    inputs = base.embed(token_ids(40))
    near = base.forward(inputs, window(40), base.new_cache(40), num_logits=40)
    far = base.forward(inputs, window(40, start), base.new_cache(40), num_logits=40)
    torch.testing.assert_close(far, near, atol=2e-3, rtol=1e-3)
    collapsed = base.forward(inputs, np.zeros(40), base.new_cache(40), num_logits=40)
    assert (collapsed - near).abs().max() > 0.1  # so the comparison above could fail


def test_whole_positions_beyond_the_trained_ones_mix_with_those_within() -> None:
    base = tiny_base()
    inputs = base.embed(token_ids(3))
    positions = np.array([4090.0, 4095.0, 4100.0])
    near = base.forward(inputs, positions - 4090, base.new_cache(3), num_logits=3)
    torch.testing.assert_close(
        base.forward(inputs, positions, base.new_cache(3), num_logits=3), near, atol=2e-3, rtol=1e-3
    )


def test_failed_forward_leaves_the_cache_as_it_was() -> None:
    base = tiny_base()
    ids = token_ids(10)
    cache = base.new_cache(16)
    base.forward(base.embed(ids), window(10), cache)
    with pytest.raises(InvalidValueError, match="give finite numbers"):
        base.forward(base.embed(ids), np.full(10, np.nan), cache)
    with pytest.raises(InvalidValueError, match="10 entries but 9 positions"):
        base.forward(base.embed(ids), window(9), cache)
    with pytest.raises(InvalidValueError, match="between 1 and the 10 new entries"):
        base.forward(base.embed(ids), window(10), cache, num_logits=11)
    assert cache.num_entries == 10


def test_surprise_is_the_plain_models_negative_log_likelihood() -> None:
    base = tiny_base()
    ids_BT = token_ids(5 * 300).reshape(5, 300)
    nats_BT = base.surprise(ids_BT)
    for ids, nats in zip(ids_BT, nats_BT, strict=True):
        log_probs = plain_logits(tiny_model(), ids).log_softmax(-1).numpy()
        expected = -log_probs[np.arange(299), ids[1:]]
        np.testing.assert_allclose(nats[1:], expected, atol=1e-4)
    np.testing.assert_allclose(nats_BT[:, 0], np.log(256), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_surprise_of_a_row_does_not_depend_on_its_neighbours(dtype: str) -> None:
    base = tiny_base(dtype=dtype)
    ids_BT = token_ids(7 * 200).reshape(7, 200)
    together = base.surprise(ids_BT)
    np.testing.assert_array_equal(together[4:5], base.surprise(ids_BT[4:5]))
    np.testing.assert_array_equal(together[2:6], base.surprise(ids_BT[2:6]))


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_mass_is_that_of_the_eager_model(family: str) -> None:
    base = tiny_base(family)
    ids = token_ids(50)
    cache = base.new_cache(50)
    base.forward(base.embed(ids[:48]), window(48), cache)
    base.forward(base.embed(ids[48:49]), window(1, 48), cache)
    base.forward(base.embed(ids[49:]), window(1, 49), cache)
    eager = tiny_model(family)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = eager(torch.from_numpy(ids.astype(np.int64))[None], output_attentions=True).attentions
    for num_queries in (1, 5, 50):
        expected = attentions[1][0, :, -num_queries:].amax((0, 1)).numpy()
        np.testing.assert_allclose(base.attention_mass(cache, num_queries=num_queries), expected, atol=1e-5)
        with pytest.MonkeyPatch.context() as patch:  # piece by piece, as where all scores at once would not fit
            patch.setattr(scoring, "MASS_ELEMENTS", 7 * 4 * 50)
            np.testing.assert_allclose(base.attention_mass(cache, num_queries=num_queries), expected, atol=1e-5)
    with pytest.raises(InvalidValueError, match="between 1 and the 50 entries"):
        base.attention_mass(cache, num_queries=51)


@pytest.mark.parametrize(
    "bad", [np.array([256], dtype=np.uint32), np.array([-1]), np.array([1.0]), np.array([[1, 2]], dtype=np.uint32)]
)
def test_bad_token_ids_are_refused(bad: npt.NDArray[np.generic]) -> None:
    with pytest.raises(InvalidTokensError):
        tiny_base().embed(bad)  # type: ignore[arg-type]


def test_models_without_the_traits_are_refused_by_name() -> None:
    info = tiny_base().info
    plain = {"bos_token_id": None, "eos_token_id": None}
    gpt2 = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=256, n_embd=32, n_layer=1, n_head=2, n_positions=64, **plain)
    )
    with pytest.raises(BaseModelError, match="learned or fixed embeddings of places"):
        HuggingFaceBase(gpt2, tiny_base().codec, info)
