"""Whether the ``config.json`` of a native core can be true; known without torch.

A memory is made with what this file says of a model that may never be loaded: a wrong number here would stand in the
memory, or be found out when its first answer is asked for.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from megacontext.bases.traits import CORE_TYPE
from megacontext.errors import BaseModelError, InvalidValueError
from megacontext.nets.shapes import CoreConfig, GistNetConfig, LensNetConfig
from megacontext.values import shown

__all__ = ["Shape", "check_core_config", "shape_of"]

Shape = CoreConfig | GistNetConfig | LensNetConfig

SHAPES: dict[str, type[Shape]] = {"core": CoreConfig, "gist_net": GistNetConfig, "lens_net": LensNetConfig}
UNSAID: dict[str, dict[str, Any]] = {"lens_net": {"direct": False}}  # what folders of before do not say of a net
NETS = tuple(SHAPES)
FACTS = ("model_type", "vocab_size", "max_position_embeddings", "eos_token_id", "dtype", "weights")
TAUGHT = ("learned_positions", "trained_shapes")
KNOWN = (*FACTS, *TAUGHT, *NETS)
DTYPES = ("bfloat16", "float16", "float32")
MOST_TOKENS = 1 << 32  # ids are stored as uint32
MOST_POSITIONS = 1 << 24  # no window is as long
AGAIN = "copy the folder again, or export it again"


def check_core_config(config: Mapping[str, Any], file: Path, *, with_lens: bool = True) -> None:
    """Raise BaseModelError, which names the file and the key, for the first thing that no exported core says.

    with_lens: also of the shape of its lens, which may be one of another version where a new one takes its place.
    """
    if config.get("model_type") != CORE_TYPE:
        raise BaseModelError(
            f"{file}: model_type is {shown(config.get('model_type'))}, but that of a core is {CORE_TYPE!r}; give the "
            "folder of a core, as recipes/core/export.py writes it"
        )
    for key in config:
        if key not in KNOWN:
            raise BaseModelError(f"{file}: has an unknown key {key!r}; known are {', '.join(KNOWN)}")
    for name in NETS:
        if (name == "core" or name in config) and (
            not isinstance(config.get(name), dict) or "width" not in config[name]
        ):
            raise BaseModelError(f"{file}: describes no {name} with its width; {AGAIN}")
    core = config["core"]
    for key, of_core, most in (
        ("vocab_size", "vocab_size", MOST_TOKENS),
        ("max_position_embeddings", "max_positions", MOST_POSITIONS),
    ):
        value = _whole(config, key, file, least=1, most=most)
        if type(core.get(of_core)) is not int or core[of_core] != value:
            raise BaseModelError(
                f"{file}: {key} is {value}, but {of_core} of its core {shown(core.get(of_core))}; {AGAIN}"
            )
    if "learned_positions" in config:
        _whole(config, "learned_positions", file, least=1, most=config["max_position_embeddings"])
    if config.get("eos_token_id") is not None:
        _whole(config, "eos_token_id", file, least=0, most=config["vocab_size"] - 1)
    if config.get("dtype") not in DTYPES:
        raise BaseModelError(f"{file}: dtype is {shown(config.get('dtype'))}; it is one of {', '.join(DTYPES)}")
    _check_digests(config, file)
    _check_trained_shapes(config, file)
    _check_shapes(config, file, [name for name in NETS if name in config and (with_lens or name != "lens_net")])


def shape_of(config: Mapping[str, Any], name: str, file: Path) -> Shape:
    """The shape of one of the nets that a configuration describes; BaseModelError if no net could have it."""
    shape = SHAPES[name]
    known = [field.name for field in dataclasses.fields(shape)]
    for key in config[name]:
        if key not in known:
            raise BaseModelError(f"{file}: {name} has an unknown key {shown(key)}; known are {', '.join(known)}")
    try:
        return shape(**UNSAID.get(name, {}) | config[name])
    except InvalidValueError as error:
        raise BaseModelError(f"{file}: {name} has an impossible shape: {error}") from error


def _check_shapes(config: Mapping[str, Any], file: Path, names: Iterable[str]) -> None:
    width = config["core"]["width"]
    for name in names:
        of_net = shape_of(config, name, file).width
        if of_net != width:
            raise BaseModelError(
                f"{file}: its {name} has width {of_net}, but its core {width}; use the nets that were trained together"
            )


def _whole(config: Mapping[str, Any], key: str, file: Path, *, least: int, most: int) -> int:
    value = config.get(key)
    if type(value) is not int or not least <= value <= most:
        raise BaseModelError(f"{file}: {key} is {shown(value)}; it is a whole number from {least} to {most}; {AGAIN}")
    return value


def _check_digests(config: Mapping[str, Any], file: Path) -> None:
    """Every net has a weights file by its sha256, and every such file a net: a memory tells its gists by it."""
    weights = config.get("weights")
    if not isinstance(weights, dict):
        raise BaseModelError(f"{file}: weights is {shown(weights)}; it gives the sha256 of each weights file; {AGAIN}")
    for name in NETS:
        digest = weights.get(name)
        if name in config and not (isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)):
            said = f"is {shown(digest)}" if name in weights else "is missing"
            raise BaseModelError(f"{file}: the sha256 of {name}.safetensors {said} under weights; {AGAIN}")
    for name in weights:
        if name not in config or name not in NETS:
            raise BaseModelError(f"{file}: weights names {shown(name)}, which it does not describe; {AGAIN}")


def _check_trained_shapes(config: Mapping[str, Any], file: Path) -> None:
    """What GistNet was taught with, if the folder says; those that were written before do not."""
    if "trained_shapes" not in config:
        return
    shapes = config["trained_shapes"]
    if not isinstance(shapes, list) or not all(_is_shape(shape) for shape in shapes) or "gist_net" not in config:
        raise BaseModelError(
            f"{file}: trained_shapes is {shown(shapes)}; beside a gist_net it lists pairs of block tokens and fewer or "
            f"as many gist vectors, as [32, 1]; {AGAIN}"
        )


def _is_shape(shape: object) -> bool:
    is_pair = isinstance(shape, list) and len(shape) == 2 and all(type(number) is int for number in shape)
    return is_pair and 1 <= shape[1] <= shape[0]  # type: ignore[index]
