"""float16 and bfloat16 against float32 in every family, with gists as short and as long as they may come, and what is
said where numbers end.

Shape legend: T entries, V vocabulary, D embedding width.
"""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import pytest
import torch

from megacontext.bases.huggingface import HuggingFaceBase
from megacontext.bases.registry import BaseHandle
from megacontext.errors import BaseModelError
from megacontext.ports.base import SupportsLearnedGists
from megacontext.runtime.sampling import Sampler, SamplingConfig
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.tiny_families import FAMILIES, family_base, family_config, family_model

pytestmark = pytest.mark.portability

# How far the logits of half the tokens may be from float32, of their norm. A token that goes to another expert is
# another matter: rounding decides ties, of which random routers have many.
LIMITS = {"bfloat16": 0.08, "float16": 0.012}
# Four layers that choose two of four experts each: in bfloat16 few tokens meet no tie.
LIMITS_OF = {("gpt_oss", "bfloat16"): 0.3}
SCALES = (1.0, 4.0, 16.0)
K = 32


def mixed_window(base: HuggingFaceBase, scale: float) -> torch.Tensor:
    """Float32 [56, D]: 8 mean gists and 16 extractive rows, all ``scale`` times as long as embeddings are on average,
    and 32 tokens."""
    rng = np.random.default_rng(0)

    def rows(*shape: int) -> torch.Tensor:
        ids = rng.integers(0, base.info.vocab_size, shape).astype(np.uint32)
        return base.embed(ids.reshape(-1)).float().view(*shape, -1)

    gists_TD = torch.cat([rows(8, K).mean(1), rows(16)])
    norm = rows(base.info.vocab_size).norm(dim=1).mean()
    return torch.cat([gists_TD / gists_TD.norm(dim=1, keepdim=True) * norm * scale, rows(32)])


def run(base: HuggingFaceBase, inputs_TD: torch.Tensor, *, num_logits: int = 32) -> torch.Tensor:
    positions = np.arange(len(inputs_TD), dtype=np.float64)
    return base.forward(inputs_TD, positions, base.new_cache(len(inputs_TD)), num_logits=num_logits)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_stay_near_those_of_float32(family: str, dtype: str) -> None:
    reference, base = (family_base(family_config(family), dtype=each) for each in ("float32", dtype))
    limit = LIMITS_OF.get((family, dtype), LIMITS[dtype])
    for scale in SCALES:
        inputs_TD = mixed_window(reference, scale)
        expected, logits = run(reference, inputs_TD), run(base, inputs_TD)
        errors_T = (logits - expected).norm(dim=1) / expected.norm(dim=1)
        assert 0 < float(errors_T.median()) < limit, f"{scale} times the norm of embeddings"


@pytest.mark.parametrize("family", ["olmo2", "olmo3"])
def test_what_float16_cannot_hold_is_named_and_leaves_the_cache(family: str) -> None:
    """These add what is longer than the entry itself: at 256 times the norm of embeddings float16 ends."""
    base = family_base(family_config(family), dtype="float16")
    inputs_TD = mixed_window(base, 256.0)
    sane_TD = mixed_window(base, 1.0)
    cache = base.new_cache(64)
    base.forward(sane_TD, np.arange(56.0), cache)
    refused = pytest.raises(
        BaseModelError, match=r"not finite in float16, which ends at 65504; use dtype='bfloat16' or"
    )
    with refused as raised:
        base.forward(inputs_TD, np.arange(56.0), cache)
    assert "\n" not in str(raised.value)
    assert cache.num_entries == 56
    with refused:
        base.decode_batch(inputs_TD[:2], np.full(2, 56.0), [cache, base.new_cache(4)])
    assert cache.num_entries == 56
    last = base.forward(sane_TD[-1:], np.array([55.0]), cache)
    cache.truncate(56)
    torch.testing.assert_close(last, base.forward(sane_TD[-1:], np.array([55.0]), cache))
    with refused:
        base.patch(inputs_TD[:1], np.zeros(1), cache, kept_n=np.arange(1, 56), moved_n=np.zeros(55),
                   places_T=np.zeros(1, dtype=np.int64))  # fmt: skip
    assert cache.num_entries == 0
    for dtype in ("bfloat16", "float32"):
        assert run(family_base(family_config(family), dtype=dtype), inputs_TD).isfinite().all()


def test_a_model_that_overflows_on_its_own_tokens_is_refused_when_it_is_taken() -> None:
    config = family_config("llama")
    model = family_model(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.mul_(1e4)
    info = family_base(config).info
    HuggingFaceBase(copy.deepcopy(model), tiny_base().codec, info)
    with pytest.raises(BaseModelError, match="not finite in float16, which ends at 65504"):
        HuggingFaceBase(model.to(torch.float16), tiny_base().codec, info)


def test_gists_that_float16_cannot_hold_are_told_from_models_that_overflow() -> None:
    base = family_base(family_config("llama"), dtype="float16")
    inputs_TD = mixed_window(base, 1.0)
    inputs_TD[3, 3] = 1e6
    with pytest.raises(
        BaseModelError, match="given entries that hold NaN or infinity in float16; make the gists again"
    ):
        run(base, inputs_TD)


def test_scores_that_are_no_numbers_are_named() -> None:
    base = family_base(family_config("llama"), dtype="bfloat16")
    with torch.no_grad():
        base._model.lm_head.weight[7] = torch.nan
    with pytest.raises(BaseModelError, match="not a number in bfloat16; use dtype='float32', or copy the model again"):
        base.surprise(np.arange(64, dtype=np.uint32).reshape(1, -1))


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_token_is_drawn_from_what_is_no_number(temperature: float, bad: float) -> None:
    sampler = Sampler(SamplingConfig(temperature=temperature, seed=0))
    logits_V = torch.tensor([0.0, 3.0, 1.0, -torch.inf])
    assert 0 <= sampler.draw(logits_V) < 3
    logits_V[2] = bad
    with pytest.raises(BaseModelError, match=f"logits hold {bad}; load it with dtype='float32'"):
        sampler.draw(logits_V)


def norm_ratios(vectors_ND: npt.NDArray[np.floating], table_VD: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
    """How long vectors are, against embeddings on average."""
    ratios: npt.NDArray[np.floating] = np.linalg.norm(vectors_ND, axis=-1) / np.linalg.norm(table_VD, axis=-1).mean()
    return ratios


@pytest.mark.parametrize("family", FAMILIES)
def test_mean_gists_are_shorter_than_embeddings_by_the_root_of_their_span(family: str) -> None:
    """Of random embeddings; real ones have something in common, see the bundled model."""
    base = family_base(family_config(family))
    table_VD = base.embed(np.arange(256, dtype=np.uint32)).numpy()
    ids = np.random.default_rng(0).integers(0, 256, (64, K))
    ratios = norm_ratios(table_VD[ids].mean(axis=1), table_VD)
    assert 0.5 / np.sqrt(K) < ratios.min()
    assert ratios.max() < 2 / np.sqrt(K)


def test_gists_of_the_bundled_model_are_within_the_range_of_its_embeddings() -> None:
    handle = BaseHandle("reference-core", device="cpu", dtype="float32")
    base = handle.load()
    assert isinstance(base, SupportsLearnedGists)
    table_VD = handle.embeddings.rows(np.arange(handle.info.vocab_size))
    text = "The memory is a folder. What is in it can be read again, word for word, whenever the model needs it. " * 20
    ids = handle.codec.encode(text).token_ids
    spans_NK = ids[: len(ids) // K * K].reshape(-1, K)
    mean, learned = table_VD[spans_NK].mean(axis=1), base.gists_of_tokens(spans_NK, gist_width=1)[:, 0]
    for name, vectors, least, most in (("mean", mean, 0.1, 0.7), ("learned", learned, 0.1, 4.0)):
        ratios = norm_ratios(vectors.astype(np.float32), table_VD)
        print(f"{name} gists: {ratios.min():.2f} to {ratios.max():.2f} of the norm of embeddings")  # noqa: T201
        assert least < ratios.min() <= ratios.max() < most
        assert np.abs(vectors).max() < 1000  # far from where float16 ends
