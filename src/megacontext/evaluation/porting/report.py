"""What porting a base found, as a page for people and a config for the program (``bases/profiles.py``)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from megacontext.evaluation.intervals import Mean, paired_difference, signed_interval
from megacontext.evaluation.porting.measuring import Shape
from megacontext.units import format_bytes, format_count

if TYPE_CHECKING:
    from megacontext.evaluation.porting.port import Ported

__all__ = ["markdown", "profile_toml"]


def markdown(ported: Ported) -> str:
    """One page: what passed, what was chosen and why, what it costs, what gists are worth."""
    info, cost = ported.info, ported.cost
    verdict = "Every check passed."
    if ported.failed:
        verdict = f"**{', '.join(ported.failed)} failed**: no config was written."
    elif not all(check.passed for check in ported.checks):
        verdict = f"Every check passed but that of precision: {info.dtype} is too coarse for this model."
    lines = [
        f"# {info.name} as a base",
        "",
        f"{ported.traits.summary}. {format_count(ported.num_parameters)} parameters, windows of up to "
        f"{info.max_positions:,} entries. Run in {info.dtype} on {info.device}, {ported.stamp['date']}, MegaContext "
        f"{ported.version}.",
        "",
        verdict,
        "",
        "## Checks",
        "",
        *_table(
            ["check", "result", "measured", "limit", "what"],
            [list(check.cells) for check in ported.checks],
        ),
    ]
    if ported.choices is not None:
        lines += ["", "## Defaults", "", *_defaults(ported)]
    lines += [
        "",
        "## Cost",
        "",
        f"Reads {cost.prefill:,.0f} and writes {cost.decode:,.1f} tokens a second, one session. Weights take "
        f"{format_bytes(cost.weight_bytes)}, each entry of a window {format_bytes(cost.entry_bytes)}"
        + (f"; the device has {format_bytes(cost.device_bytes)}." if cost.device_bytes else "."),
        "",
        *_table(
            ["window", "keys and values", "with the weights"],
            [
                [
                    f"{window.num_entries:,}",
                    format_bytes(window.cache_bytes),
                    format_bytes(cost.weight_bytes + window.cache_bytes) + ("" if window.fits else " (does not fit)"),
                ]
                for window in cost.windows
            ],
        ),
    ]
    if ported.measured is not None:
        lines += ["", "## Gists", "", *_gists(ported)]
    return "\n".join(lines) + "\n"


def profile_toml(ported: Ported) -> str:
    """The config that is read back; see ``bases/profiles.py`` for the format."""
    assert ported.choices is not None, "defaults are written of a base that passed"
    head = {
        "format": 1,
        "name": ported.info.name,
        "family": ported.family,
        "num_parameters": ported.num_parameters,
        "kv": ported.kv,
    }
    measured = {
        "fingerprint": ported.info.fingerprint,
        "dtype": ported.info.dtype,
        "device": ported.info.device,
        "date": str(ported.stamp["date"]),
        "megacontext": ported.version,
        "is_quick": ported.is_quick,
    }
    defaults = {name: value for name, value in dataclasses.asdict(ported.choices.defaults).items() if value is not None}
    tables = {
        "traits": dataclasses.asdict(ported.traits),
        "measured": measured,
        "defaults": defaults,
        "reasons": ported.choices.reasons,
    }
    parts = [f"# Written by `megacontext port`; the format is in docs/bases.md.\n{_pairs(head)}"]
    parts += [f"[{name}]\n{_pairs(table)}" for name, table in tables.items()]
    return "\n".join(parts)


def _defaults(ported: Ported) -> list[str]:
    assert ported.choices is not None
    reasons = ported.choices.reasons
    shared = {"block_tokens": "with the gister", "gist_width": "with the gister"}
    rows = [
        [name, str(value), _alone(reasons.get(name) or shared.get(name, ""), value)]
        for name, value in dataclasses.asdict(ported.choices.defaults).items()
    ]
    return _table(["default", "value", "why"], rows)


def _alone(reason: str, value: object) -> str:
    """A reason without the value that it begins with, which stands beside it here."""
    said = f"{value:,}" if isinstance(value, int) else str(value)
    return reason.removeprefix(f"{said}: ")


def _gists(ported: Ported) -> list[str]:
    measured, plan = ported.measured, ported.plan
    assert measured is not None
    assert plan is not None
    rows = [["the last tokens alone", "", "", "", "", f"{np.mean(measured.recency):.3f}", ""]]
    if measured.full:
        rows.append(
            ["full context", "", "", "", "", f"{np.mean(measured.full):.3f}", _gain(measured.recency, measured.full)]
        )
    rows += [
        [*_words(shape), f"{np.mean(nats):.3f}", _gain(measured.recency, nats)]
        for shape, nats in measured.shapes.items()
    ]
    norms = ", ".join(f"{each.name} {each.mean:.3g} ± {each.spread:.2g}" for each in ported.norms)
    return [
        f"Nats per token of the next {plan.target_tokens} tokens of a novel after {plan.history_tokens:,}, in a window "
        f"of {plan.window_entries:,} ({plan.num_trials} trials, the same for all). Gain: against the last tokens, "
        f"with its 95 % interval. Norms: {norms}.",
        "",
        *_table(["shows the past as", "block", "vectors", "positions", "sinks", "nats", "gain"], rows),
    ]


def _words(shape: Shape) -> list[str]:
    return [
        f"{shape.gister} gists",
        str(shape.block_tokens),
        str(shape.gist_width),
        shape.positions,
        str(shape.sink_tokens),
    ]


def _gain(recency: tuple[float, ...], nats: tuple[float, ...]) -> str:
    gain: Mean = paired_difference(recency, nats)
    return signed_interval(gain)


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]]


def _pairs(table: Mapping[str, Any]) -> str:
    """TOML of plain values: JSON strings, numbers and booleans are TOML too."""
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in table.items())
