"""Sessions of different lengths that step together, against a batch that transformers pads on the left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from megacontext.testing.tiny_families import FAMILIES, family_base, family_config, family_model

pytestmark = pytest.mark.portability

LENGTHS = (13, 41, 30)  # beyond and within the sliding windows


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_sessions_is_that_of_a_left_padded_batch(family: str, cell: Callable[..., None]) -> None:
    config = family_config(family)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 250, length).astype(np.uint32) for length in LENGTHS]
    base = family_base(config)
    caches = [base.new_cache(length) for length in LENGTHS]
    for ids, cache in zip(rows, caches, strict=True):
        base.forward(base.embed(ids[:-1]), np.arange(len(ids) - 1.0), cache)
    last = base.embed(np.array([ids[-1] for ids in rows], dtype=np.uint32))
    together = base.decode_batch(last, np.array(LENGTHS) - 1.0, caches)

    longest = max(LENGTHS)
    padded = torch.zeros(len(rows), longest, dtype=torch.long)
    is_there = torch.zeros(len(rows), longest, dtype=torch.long)
    for row, ids in enumerate(rows):
        padded[row, longest - len(ids) :] = torch.from_numpy(ids.astype(np.int64))
        is_there[row, longest - len(ids) :] = 1
    model = family_model(config)
    model.set_attn_implementation("eager")
    positions = (is_there.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        logits = model(input_ids=padded, attention_mask=is_there, position_ids=positions, use_cache=False).logits
    error = float((together - logits[:, -1]).norm() / logits[:, -1].norm())
    cell(family, "float32 batch", error=error)
    assert error < 2e-5
