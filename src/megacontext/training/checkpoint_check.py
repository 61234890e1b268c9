"""Whether a checkpoint's content can be true: its bytes may be those that were written, and still no run be in them.

A count below zero, a weight that is text or an identity that is a number would be found out in the middle of a run, or
never. What checkpoints of before do not say is no fault.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from megacontext.errors import CorruptionError
from megacontext.training.finite import check_finite
from megacontext.values import shown

__all__ = ["OTHER_CHECKPOINT", "check_content"]

OTHER_CHECKPOINT = "take another checkpoint, or start again"
ALWAYS = ("step", "stage", "stage_step", "seconds", "tokens")  # in the state of every checkpoint that there was
MISSING = object()

Kind = tuple[Callable[[Any], bool], str]
"""Whether a value is one, and what that is."""
Claims = Iterator[tuple[str, Any, Kind]]


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _are_figures(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, int | float) for one in value)


COUNT: Kind = _is_count, "a whole number of at least 0"
LENGTH: Kind = lambda value: _is_number(value) and value >= 0, "a finite number of at least 0"
TEXT: Kind = lambda value: isinstance(value, str), "text"
TABLE: Kind = _is_table, "a table"
TABLES: Kind = lambda value: _is_table(value) and all(map(_is_table, value.values())), "a table of tables"
LISTED: Kind = lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value), "a list of tables"
FIGURES: Kind = _are_figures, "a list of numbers"
WEIGHT: Kind = lambda value: isinstance(value, Tensor) and value.is_floating_point(), "a tensor of floating point"

STATE: Mapping[str, Kind] = {
    "step": COUNT,
    "stage": COUNT,
    "stage_step": COUNT,
    "seconds": LENGTH,
    "tokens": COUNT,
    "tokens_by_row_kind": (lambda value: _is_table(value) and all(map(_is_count, value.values())), "a table of counts"),
    "gate_nlls": FIGURES,
    "stage_ends": LISTED,
}
BEGUN: Mapping[str, Kind] = {
    "given_seed": (lambda value: value is None or _is_count(value), f"none or {COUNT[1]}"),
    "given_minutes": (
        lambda value: value is None or (_is_number(value) and value > 0),
        "none or a finite number above 0",
    ),
    "recent": (lambda value: _is_table(value) and all(map(_are_figures, value.values())), "a table of figures"),
}


def check_content(path: Path, parts: Mapping[str, Any]) -> None:
    """CorruptionError, which names the file and the key, for the first thing that no run wrote. parts: the optimiser
    and the state are tables."""
    for key, value, (is_one, wanted) in _claims(parts):
        if not is_one(value):
            raise CorruptionError(f"{path}: {key} is {_said(value)}, and has to be {wanted}; {OTHER_CHECKPOINT}")
    check_finite(_tensors(parts["optimizer"]), path, fix=OTHER_CHECKPOINT)


def _claims(parts: Mapping[str, Any]) -> Claims:
    """What is said and what it has to be; nothing is looked into before it was found to be what it has to be."""
    state = parts["state"]
    for name, kind in STATE.items():
        if name in ALWAYS or name in state:
            yield f"state.{name}", state.get(name, MISSING), kind
    for name, kind in BEGUN.items():
        if name in parts:
            yield name, parts[name], kind
    yield from _of_optimizer(parts["optimizer"])
    if "identity" in parts:
        yield from _of_identity(parts["identity"])


def _of_optimizer(optimizer: Mapping[str, Any]) -> Claims:
    for part in ("masters", "frozen"):
        weights = optimizer.get(part, {})
        yield f"optimizer.{part}", weights, TABLE
        for name, weight in weights.items():
            yield f"optimizer.{part}.{name}", weight, WEIGHT
    optimizers = optimizer.get("optimizers", [])
    yield "optimizer.optimizers", optimizers, LISTED
    for number, one in enumerate(optimizers):
        key = f"optimizer.optimizers.{number}"
        yield f"{key}.param_groups", one.get("param_groups", MISSING), LISTED
        moments = one.get("state", MISSING)
        yield f"{key}.state", moments, (lambda value: isinstance(value, dict), "a table")
        for index, of_one in moments.items():
            yield f"{key}.state.{index}", of_one, TABLE


def _of_identity(identity: Any) -> Claims:
    yield "identity", identity, TABLE
    for name in ("shape", "data"):
        yield f"identity.{name}", identity.get(name, {}), TABLES
    told = {"tokenizer": identity["tokenizer"]} if "tokenizer" in identity else {}
    told |= {f"data.{domain}": tokens for domain, tokens in identity.get("data", {}).items()}
    for name, one in told.items():
        yield f"identity.{name}", one, TABLE
        yield f"identity.{name}.digest", one.get("digest", MISSING), TEXT
        yield f"identity.{name}.num_tokens", one.get("num_tokens", MISSING), COUNT


def _tensors(optimizer: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights by name, and what the optimisers keep of them."""
    found = {**optimizer.get("frozen", {}), **optimizer["masters"]}
    for number, one in enumerate(optimizer.get("optimizers", [])):
        for index, moments in one["state"].items():
            named = {f"{name} {index} of optimiser {number}": moment for name, moment in moments.items()}
            found |= {name: moment for name, moment in named.items() if isinstance(moment, Tensor)}
    return found


def _said(value: Any) -> str:
    if value is MISSING:
        return "missing"
    return f"a tensor of {str(value.dtype).removeprefix('torch.')}" if isinstance(value, Tensor) else shown(value)
