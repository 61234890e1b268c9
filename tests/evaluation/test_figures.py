"""The picture is drawn from any run, with and without charts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.evaluation.doubles import small_trace

from megacontext.evaluation.cost import DecodeCost
from megacontext.evaluation.scores import Comparison, MethodScore

pytest.importorskip("matplotlib")


def test_a_picture_with_charts(tmp_path: Path) -> None:
    from megacontext.evaluation.figures import draw_figure

    score = MethodScore(name="recency", label="recency", correct=[True, False], nats=[2.0, 2.5])
    comparison = Comparison(title="t", num_tokens=40_000, budget_entries=512, scores=[score])
    costs = [DecodeCost(num_tokens=10_000, first_ms=9, per_token_ms=2, with_refocus_ms=9, num_generated=4)]
    draw_figure(tmp_path / "with.png", small_trace(), comparison, costs)
    draw_figure(tmp_path / "without.png", small_trace())
    for name in ("with.png", "without.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "with.png").stat().st_size > (tmp_path / "without.png").stat().st_size
