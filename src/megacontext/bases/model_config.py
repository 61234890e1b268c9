"""Whether the ``config.json`` of a model folder can be true, by its values and by the shapes of the weights; known
without torch.

A memory is made with what this file says of a model that may not be loaded for days. What a kind of model calls by
other names, or leaves to its class, is not judged here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from megacontext.bases.embedding_table import EmbeddingTable
from megacontext.bases.traits import longest_window
from megacontext.errors import BaseModelError
from megacontext.values import shown

__all__ = ["LEAST_POSITIONS", "check_model_config", "check_stored_shapes", "check_window"]

# The smallest window that shows a history: of blocks of 16 tokens the first is raw, as are those of the last 8 tokens,
# with a few gists (some 45 entries); a question of a few words and an answer of a few tokens take the rest.
LEAST_POSITIONS = 64
SIZES = ("hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads")
# What may be listed, where layers differ.
LISTED_SIZES = ("num_key_value_heads", "head_dim", "intermediate_size")
# What a table of embeddings is wide by, or has rows for, beside the usual keys.
OTHER_WIDTHS = ("embedding_size", "embed_dim", "word_embed_proj_dim")
OTHER_ROWS = ("additional_vocab_size",)
THETAS = ("rope_theta", "rotary_emb_base", "rope_local_base_freq", "local_rope_theta", "global_rope_theta")
ROPES = ("rope_parameters", "rope_scaling")
OF_THE_WEIGHTS = "use the config.json that belongs to the weights"


def check_model_config(config: Mapping[str, Any], file: Path) -> None:
    """Raise BaseModelError, which names the file and the key, for the first value that no model has. config: what is in
    the file, as it is there."""
    part = _tower(config)
    place = "" if part is config else "text_config."
    for prefix, described in {"": config, place: part}.items():
        if not isinstance(described.get("model_type") or "", str):
            raise BaseModelError(
                f"{file}: {prefix}model_type is {shown(described['model_type'])}; it is text, such as llama; "
                f"{OF_THE_WEIGHTS}"
            )
    if not config.get("model_type"):
        raise BaseModelError(f"{file}: lacks model_type, the kind of model (such as llama); {OF_THE_WEIGHTS}")
    for key in (*SIZES, *LISTED_SIZES):
        value = part.get(key)
        if value is not None and not (key in LISTED_SIZES and isinstance(value, list)):
            _check_size(f"{place}{key}", value, file)
    for path, theta in _thetas(part):
        _check_theta(f"{place}{path}", theta, file)


def check_window(config: Mapping[str, Any], file: Path) -> None:
    """BaseModelError unless it says for how long windows the model was made, and these are long enough."""
    key = "max_position_embeddings"
    longest = config.get(key)
    if longest is None:
        raise BaseModelError(f"{file}: lacks {key}, the longest window that the model was made for; add it")
    if type(longest) is not int or longest < 1 or (longest_window(dict(config)) or 0) < LEAST_POSITIONS:
        raise BaseModelError(
            f"{file}: {key} is {shown(longest)}{_kind(longest)}; it is the longest window that the model was made for, "
            f"a whole number from {LEAST_POSITIONS} on; {OF_THE_WEIGHTS}"
        )


def check_stored_shapes(config: Mapping[str, Any], table: EmbeddingTable, file: Path) -> None:
    """BaseModelError where the weights are of another model than ``config``, which is as it is in the file, says."""
    part = _tower(config)
    place = "" if part is config else "text_config."
    rows, width = table.shape
    stored = [
        ("hidden_size", width, f"{table.name} is {width} wide", OTHER_WIDTHS),
        ("vocab_size", rows, f"{table.name} has {rows} rows", OTHER_ROWS),
    ]
    for key, value, said, others in stored:
        if part.get(key) not in (None, value) and not any(part.get(other) for other in others):
            raise BaseModelError(f"{file}: {place}{key} is {shown(part[key])}, but {said}; {OF_THE_WEIGHTS}")
    num_layers = part.get("num_hidden_layers") or 0
    if table.num_layers and num_layers > table.num_layers:  # those beyond may predict further tokens
        raise BaseModelError(
            f"{file}: {place}num_hidden_layers is {shown(num_layers)}, but the weights hold {table.num_layers} layers; "
            f"{OF_THE_WEIGHTS}, or copy the weights again"
        )


def _tower(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part that describes the model that reads text; of a vision model what stands beside it says of others."""
    tower = config.get("text_config")
    return tower if isinstance(tower, dict) else config


def _check_size(key: str, value: object, file: Path) -> None:
    if type(value) is not int or value < 1:
        raise BaseModelError(
            f"{file}: {key} is {shown(value)}{_kind(value)}; it is a whole number from 1 on; {OF_THE_WEIGHTS}"
        )


def _thetas(part: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Every base of rotary frequencies: at top level, in one table, or in one per kind of layer."""
    tables = {"": part}
    for key in ROPES:
        if isinstance(part.get(key), dict):
            tables[f"{key}."] = part[key]
            tables |= {f"{key}.{kind}.": table for kind, table in part[key].items() if isinstance(table, dict)}
    for place, table in tables.items():
        for key in THETAS:
            if not isinstance(table.get(key), list | dict | None):
                yield f"{place}{key}", table[key]


def _check_theta(key: str, value: object, file: Path) -> None:
    if type(value) not in (int, float) or not 0 < value < math.inf:  # type: ignore[operator]
        raise BaseModelError(
            f"{file}: {key} is {shown(value)}{_kind(value)}; it is the base of rotary frequencies, a finite number "
            f"above 0, such as 10000.0; {OF_THE_WEIGHTS}"
        )


def _kind(value: object) -> str:
    return ", which is text" if isinstance(value, str) else ""
