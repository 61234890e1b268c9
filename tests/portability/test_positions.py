"""Every way in which positions are scaled, in windows as long as they may be and histories far longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import megacontext as mc
from megacontext.errors import InvalidValueError
from megacontext.ports.base import Base
from megacontext.testing.base_suite import BaseSuite
from megacontext.testing.fake_base import BaseInMemory
from megacontext.testing.tiny_families import ROPE_SCALINGS, family_base, family_model, with_rope

pytestmark = pytest.mark.portability

# What is scaled was trained on windows of TRAINED, and serves up to LONGEST.
TRAINED, LONGEST = 64, 256


def scaled(scaling: str) -> Any:
    rope = dict(ROPE_SCALINGS[scaling])
    if "original_max_position_embeddings" in rope:
        rope["original_max_position_embeddings"] = TRAINED
    own = {"dynamic": TRAINED}.get(scaling, LONGEST)
    return with_rope(rope, max_position_embeddings=own)


def suite_of(scaling: str) -> type[BaseSuite]:
    def make(self: BaseSuite) -> Base:
        return family_base(scaled(scaling))

    return type(f"Test{scaling.title()}", (BaseSuite,), {"make": make, "num_entries": TRAINED})


globals().update({suite.__name__: suite for suite in map(suite_of, ROPE_SCALINGS)})


@pytest.mark.parametrize("num_entries", [TRAINED, TRAINED + 1, LONGEST])
@pytest.mark.parametrize("scaling", ROPE_SCALINGS)
def test_a_window_rotates_for_its_full_length_from_the_first_entry_on(scaling: str, num_entries: int) -> None:
    """transformers scales by the entries so far; keys that were computed before it did stay as they were. A window here
    is at every length what the plain model makes of it as a whole."""
    base, plain = family_base(scaled(scaling)), family_model(scaled(scaling))
    ids = np.random.default_rng(0).integers(0, 256, num_entries).astype(np.uint32)
    cache = base.new_cache(num_entries)
    parts = [
        base.forward(base.embed(ids[a:b]), np.arange(a, b, dtype=np.float64), cache, num_logits=b - a)
        for a, b in ((0, 10), (10, num_entries - 1), (num_entries - 1, num_entries))
    ]
    with torch.no_grad():
        expected = plain(input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False).logits[0]
    torch.testing.assert_close(torch.cat(parts), expected, atol=1e-4, rtol=1e-4)


class Watched(BaseInMemory):
    """A base that notes the furthest position that it was ever given."""

    def __init__(self, base: Base) -> None:
        super().__init__(base)
        self.furthest = 0.0
        forward = base.forward

        def noting(
            inputs: torch.Tensor, positions_T: npt.NDArray[np.float64], *rest: Any, **named: Any
        ) -> torch.Tensor:
            self.furthest = max(self.furthest, float(positions_T.max()))
            return forward(inputs, positions_T, *rest, **named)

        base.forward = noting  # type: ignore[method-assign]


@pytest.mark.parametrize("scaling", ROPE_SCALINGS)
def test_a_history_far_beyond_the_trained_length_stays_within_it(scaling: str, tmp_path: Path) -> None:
    watched = Watched(family_base(scaled(scaling)))
    ids = np.random.default_rng(0).integers(0, 256, 40 * LONGEST).astype(np.uint32)
    with mc.open(tmp_path / "memory", base=watched, create=True, gister="mean") as memory:
        memory.append(ids)
        with memory.session(budget_entries=LONGEST, recent_tokens=16, kv="exact") as session:
            nats = session.nll(ids[:20])
            assert np.isfinite(nats).all()
            assert 0 < watched.furthest < watched.info.max_positions
        beyond = r"behind 10,240 tokens, but with positions='global' .* knows positions below .*use positions='window'"
        with (
            memory.session(budget_entries=LONGEST, positions="global") as session,
            pytest.raises(InvalidValueError, match=beyond),
        ):
            session.nll(ids[:20])
    with mc.open(tmp_path / "short", base=watched, create=True, gister="mean") as memory:
        memory.append(ids[: LONGEST - 40])
        with memory.session(budget_entries=LONGEST - 20, positions="global", kv="exact") as session:
            assert np.isfinite(session.nll(ids[:20])).all()
