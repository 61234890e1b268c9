"""Families x precision x attention kernel x cache, against transformers' own eager attention at the same places.

The reference is slow and obvious: the whole window in one forward, without a cache, every entry at its position, masks
written out. Windows mix tokens with vectors that are none (gists), at positions with gaps, longer than every sliding
window of the models.

Shape legend: T entries, V vocabulary, D embedding width.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers

from megacontext.bases.huggingface import HuggingFaceBase
from megacontext.testing.tiny_families import FAMILIES, SLIDING_WINDOW, family_base, family_config, family_model

pytestmark = pytest.mark.portability

NUM_ENTRIES = 60
# How far logits may be from the reference's, of their norm: what rounds in between, and experts that choose otherwise.
LIMITS = {"float32": 2e-5, "bfloat16": 0.06, "float16": 0.02}
MIXING = {"bfloat16": 0.3, "float16": 0.1}  # where experts choose: one entry that goes elsewhere shows in all after it
EXPERTS = ("qwen3_moe", "mixtral", "deepseek_v2", "deepseek_v3", "gpt_oss")


def mixed_window(base: HuggingFaceBase) -> tuple[torch.Tensor, npt.NDArray[np.float64]]:
    """Inputs [T, D] and positions [T]: tokens, with means of tokens in the middle that stand for 32 positions each."""
    rng = np.random.default_rng(0)
    inputs_TD = base.embed(rng.integers(0, 256, NUM_ENTRIES).astype(np.uint32)).clone()
    spans = base.embed(rng.integers(0, 256, 10 * 32).astype(np.uint32)).float().view(10, 32, -1)
    inputs_TD[20:30] = spans.mean(1).to(inputs_TD.dtype)
    steps = np.ones(NUM_ENTRIES)
    steps[20:30] = 3
    return inputs_TD, np.cumsum(steps) - 1


@functools.cache
def reference(family: str, dtype: str) -> torch.Tensor:
    """Float32 logits [T, V] of the mixed window by transformers alone."""
    config = family_config(family)
    inputs_TD, positions_T = mixed_window(family_base(config, dtype=dtype))
    model = family_model(config, dtype=dtype)
    model.set_attn_implementation("eager")
    return explicit_logits(model, inputs_TD[None], torch.from_numpy(positions_T.astype(np.int64))[None])[0]


def explicit_logits(model: transformers.PreTrainedModel, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Float32 logits of embeddings [1, T, D] at whole positions [1, T], with masks written out, layer kind by layer
    kind."""
    text = model.config.get_text_config(decoder=True)
    distances = positions[0, :, None] - positions[0]
    masks = {"full_attention": distances < 0, "sliding_attention": distances < 0}
    window = getattr(text, "sliding_window", None)
    if window is not None:
        masks["sliding_attention"] = masks["sliding_attention"] | (distances >= window)
    biases = {
        kind: torch.zeros(mask.shape, dtype=inputs.dtype).masked_fill(mask, torch.finfo(inputs.dtype).min)[None, None]
        for kind, mask in masks.items()
    }
    has_kinds = getattr(text, "layer_types", None) is not None and model.config.model_type not in ONE_MASK
    one = biases["full_attention" if window is None or has_kinds else "sliding_attention"]
    mask: Any = biases if has_kinds else one
    decoder = model.get_decoder()
    with torch.no_grad():
        hidden = decoder(inputs_embeds=inputs, position_ids=positions, attention_mask=mask, use_cache=False)
        logits: torch.Tensor = head_of(model)(hidden.last_hidden_state).float()
    return logits


# Classes that take one mask although their configuration names kinds of layers.
ONE_MASK = ("qwen3_vl", "gpt_neox")


def head_of(model: transformers.PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """What a model makes of its last states: its output layer, scaled and capped as its configuration says."""
    text = model.config.get_text_config(decoder=True)
    output_layer = model.get_output_embeddings()

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        raw = output_layer(hidden)
        if text.model_type in ("granite", "granite_swa"):
            raw = raw / text.logits_scaling
        if text.model_type == "cohere":
            raw = raw * text.logit_scale
        softcap = getattr(text, "final_logit_softcapping", None)
        return raw if softcap is None else torch.tanh(raw / softcap) * softcap

    return logits


def in_pieces(base: HuggingFaceBase, inputs_TD: torch.Tensor, positions_T: npt.NDArray[np.float64]) -> torch.Tensor:
    """The window through an exact cache: at once, one by one, a few together."""
    cache = base.new_cache(NUM_ENTRIES)
    borders = [0, 25, 26, 27, 40, NUM_ENTRIES]
    return torch.cat(
        [
            base.forward(inputs_TD[a:b], positions_T[a:b], cache, num_logits=b - a)
            for a, b in itertools.pairwise(borders)
        ]
    )


def patched(base: HuggingFaceBase, inputs_TD: torch.Tensor, positions_T: npt.NDArray[np.float64]) -> torch.Tensor:
    """The window as a patch makes it: its head stood elsewhere, and behind it stood no gists; the head moves to its
    place, and everything behind it is run there."""
    cache = base.new_cache(NUM_ENTRIES)
    first = base.forward(inputs_TD[:20], positions_T[:20] + 7.5, cache, num_logits=20)
    base.forward(inputs_TD[30:], positions_T[30:] + 7.5, cache)
    rest = base.patch(
        inputs_TD[20:],
        positions_T[20:],
        cache,
        kept_n=np.arange(20),
        moved_n=np.full(20, -7.5),
        places_T=np.arange(20, NUM_ENTRIES),
        num_logits=NUM_ENTRIES - 20,
    )
    return torch.cat([first, rest])


CACHES = {"exact": in_pieces, "patch": patched}


@pytest.mark.parametrize("kernel", ["sdpa", "eager", "flex"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_windows_are_what_the_model_makes_of_them(
    family: str, dtype: str, kernel: str, cell: Callable[..., None]
) -> None:
    base = family_base(family_config(family), dtype=dtype, attention=kernel)
    expected = reference(family, dtype)
    limit = MIXING.get(dtype, LIMITS[dtype]) if family in EXPERTS else LIMITS[dtype]
    for name, run in CACHES.items():
        logits = run(base, *mixed_window(base))
        error = float((logits - expected).norm() / expected.norm())
        cell(family, f"{dtype} {kernel} {name}", error=error)
        assert error <= limit, name
    assert SLIDING_WINDOW < NUM_ENTRIES
