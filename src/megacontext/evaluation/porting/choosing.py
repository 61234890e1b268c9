"""Defaults for a base from what was measured, each by a rule that is said with it.

Differences are paired over trials. One counts where it is worth something (``LEAST_GAIN``) and its 95 % interval,
by Student's t because there are few trials, keeps clear of 0. Where nothing counts, a base gets what any base gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from megacontext.evaluation.intervals import Mean, paired_difference, signed_interval
from megacontext.evaluation.porting.checks import CheckResult
from megacontext.evaluation.porting.footprint import Cost
from megacontext.evaluation.porting.measuring import Measurement, Shape
from megacontext.ports.base import BaseDefaults, BaseInfo
from megacontext.units import format_bytes

__all__ = ["Choices", "choose"]

LEAST_GAIN = 0.01  # nats per token
USUAL_BLOCK, USUAL_WINDOW = 32, 1024
# A window's keys and values take at most this share of what the weights leave of the memory.
KV_SHARE = 1 / 8
# A question that finds nothing computed waits for the whole window.
MOST_WAIT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Choices:
    """defaults, and why each of them, one sentence by name; gain: nats per token that the chosen gists save against the
    last tokens alone."""

    defaults: BaseDefaults
    reasons: dict[str, str]
    gain: Mean


def choose(info: BaseInfo, measured: Measurement, cost: Cost, checks: Sequence[CheckResult]) -> Choices:
    """Defaults for a base whose checks passed."""
    reasons: dict[str, str] = {}
    shape = _gists(measured, reasons)
    gain = paired_difference(measured.recency, measured.shapes[shape])
    defaults = BaseDefaults(
        dtype=_dtype(info, checks, reasons),
        block_tokens=shape.block_tokens,
        gister=shape.gister,
        gist_width=shape.gist_width,
        budget_entries=_window(info, cost, reasons),
        positions=_positions(info, measured, reasons),
        sink_tokens=_sinks(measured, shape, reasons),
    )
    return Choices(defaults=defaults, reasons=reasons, gain=gain)


def _dtype(info: BaseInfo, checks: Sequence[CheckResult], reasons: dict[str, str]) -> str:
    compared = next((check for check in checks if check.name == "precision"), None)
    if compared is None or compared.error is None:
        why = "" if info.dtype == "float32" else "; float32 weights had no room to be compared with"
        reasons["dtype"] = f"auto, which is {info.dtype} here{why}."
        return "auto"
    if compared.passed:
        reasons["dtype"] = f"auto: logits in {info.dtype} are {compared.error:.1%} from those in float32."
        return "auto"
    reasons["dtype"] = f"float32: logits in {info.dtype} are {compared.error:.1%} from those in float32."
    return "float32"


def _gists(measured: Measurement, reasons: dict[str, str]) -> Shape:
    """The best shape by its mean; of those that chance may have put behind it, the narrowest, with blocks nearest to
    the usual. The usual one if none is better than showing nothing of the past."""
    first = next(iter(measured.shapes))
    shapes = [
        shape
        for shape in measured.shapes
        if (shape.positions, shape.sink_tokens) == (first.positions, first.sink_tokens)
    ]
    best = min(shapes, key=lambda shape: float(np.mean(measured.shapes[shape])))
    helps = [shape for shape in shapes if _counts(paired_difference(measured.recency, measured.shapes[shape]))]
    if not helps:
        usual = replace(first, block_tokens=USUAL_BLOCK, gist_width=1)
        gain = paired_difference(measured.recency, measured.shapes[best])
        reasons["gister"] = (
            f"{usual.gister}, blocks of {USUAL_BLOCK} and one vector as for any base: no gists predict better than the "
            f"last tokens alone by more than chance (the best by {_nats(gain)})."
        )
        return usual if usual in measured.shapes else best
    tied = [shape for shape in helps if not _counts(paired_difference(measured.shapes[shape], measured.shapes[best]))]
    chosen = min(tied or [best], key=lambda shape: (shape.gist_width, abs(shape.block_tokens - USUAL_BLOCK)))
    gain = paired_difference(measured.recency, measured.shapes[chosen])
    reasons["gister"] = (
        f"{chosen.gister}, {chosen.gist_width} for blocks of {chosen.block_tokens}: predicts {_nats(gain)} better than "
        f"the last tokens alone; of the {len(tied)} that chance may have put behind the best it is the narrowest."
    )
    return chosen


def _positions(info: BaseInfo, measured: Measurement, reasons: dict[str, str]) -> Literal["window", "timeline"]:
    usual = info.positions
    other: Literal["window", "timeline"] = "timeline" if usual == "window" else "window"
    gain = _against(measured, positions=usual, other=other)
    if gain is None:
        reasons["positions"] = f"{usual}, as the base was made for; nothing else was measured."
        return usual
    if _counts(gain):
        reasons["positions"] = f"{other} predicts {_nats(gain)} better than {usual}."
        return other
    reasons["positions"] = f"{usual}: {other} {_not_better(gain)}."
    return usual


def _sinks(measured: Measurement, shape: Shape, reasons: dict[str, str]) -> int:
    gain = next(
        (
            paired_difference(measured.shapes[replace(without, sink_tokens=shape.sink_tokens)], nats)
            for without, nats in measured.shapes.items()
            if without.sink_tokens == 0 and replace(without, sink_tokens=shape.sink_tokens) in measured.shapes
        ),
        None,
    )
    if gain is not None and _counts(gain):
        reasons["sink_tokens"] = f"0: windows without the first tokens predict {_nats(gain)} better."
        return 0
    said = "was not measured" if gain is None else _not_better(gain)
    reasons["sink_tokens"] = f"{shape.sink_tokens}: a window without them {said}."
    return shape.sink_tokens


def _window(info: BaseInfo, cost: Cost, reasons: dict[str, str]) -> int:
    """The largest of 1,024, 2,048, 4,096 ... that fits positions, memory and patience."""
    room = max(0, cost.device_bytes - cost.weight_bytes) * KV_SHARE
    limits = {"positions": float(info.max_positions), "patience": cost.prefill * MOST_WAIT_SECONDS}
    if cost.entry_bytes and cost.device_bytes:
        limits["memory"] = room / cost.entry_bytes
    chosen = USUAL_WINDOW
    while 2 * chosen <= min(limits.values()):
        chosen *= 2
    chosen = min(chosen, info.max_positions)
    what = {
        "positions": f"the base was made for windows of {info.max_positions:,}",
        "patience": f"at {cost.prefill:,.0f} tokens a second a larger one is not read within {MOST_WAIT_SECONDS:.0f} s",
        "memory": f"keys and values of a larger one take more than an eighth of the {format_bytes(8 * room)} that the "
        "weights leave",
    }
    reasons["budget_entries"] = f"{chosen:,}: {what[min(limits, key=lambda name: limits[name])]}."
    return chosen


def _against(measured: Measurement, *, positions: str, other: str) -> Mean | None:
    """What the other numbering saves, in the shape that was tried with both."""
    for shape, nats in measured.shapes.items():
        usual = replace(shape, positions=positions)  # type: ignore[arg-type]
        if shape.positions == other and usual in measured.shapes:
            return paired_difference(measured.shapes[usual], nats)
    return None


def _counts(gain: Mean) -> bool:
    """Whether a difference is more than chance, and worth something."""
    return gain.value >= LEAST_GAIN and gain.differs_from_zero


def _not_better(gain: Mean) -> str:
    said = "is worse" if gain.interval[1] < 0 else "is not better by more than chance"
    return f"{said} ({_nats(gain)})"


def _nats(mean: Mean) -> str:
    return signed_interval(mean, unit=" nats")
