"""Shapes: those of the weights are those that the nets have, and every number has its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import nn

from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import CoreConfig, GistNetConfig, LensNetConfig

Shape = CoreConfig | GistNetConfig | LensNetConfig


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (Core, CoreConfig()),
        (
            Core,
            CoreConfig(
                vocab_size=300,
                width=24,
                num_layers=3,
                num_heads=6,
                num_kv_heads=2,
                head_dim=10,
                mlp_width=40,
                rotary_dims=8,
                learns_sigma=True,
            ),
        ),
        (GistNet, GistNetConfig()),
        (
            GistNet,
            GistNetConfig(
                width=24, num_layers=3, num_heads=6, mlp_width=40, num_pool_heads=5, pool_head_dim=7, num_features=6
            ),
        ),
        (LensNet, LensNetConfig()),
        (
            LensNet,
            LensNetConfig(
                width=24, num_heads=3, key_dim=5, mlp_width=7, query_tokens=9, num_word_heads=2, features=("lexical",)
            ),
        ),
        (LensNet, LensNetConfig(direct=False, features=())),
    ],
)
def test_weights_are_told_as_the_net_has_them(net: Callable[[Any], nn.Module], shape: Shape) -> None:
    with torch.device("meta"):
        made = net(shape).state_dict()
    assert shape.weights == {name: tuple(weight.shape) for name, weight in made.items()}


@pytest.mark.parametrize("shape", [CoreConfig(), GistNetConfig(), LensNetConfig()])
def test_every_size_is_a_whole_number_of_at_least_one(shape: Shape) -> None:
    taught = ("word_kinds", "tokens_before")  # have one value each
    sizes = [field.name for field in fields(shape) if field.type == "int" and field.name not in taught]
    assert len(sizes) > 5
    for name in sizes:
        for value in ("4", 4.0, True, None, -1, 0):
            if (name, value) != ("num_slow_bands", 0):
                with pytest.raises(InvalidValueError, match=f"{name} is {value!r}; "):
                    replace(shape, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [CoreConfig(), GistNetConfig()])
def test_layers_are_not_counted_in_billions(shape: CoreConfig | GistNetConfig) -> None:
    assert replace(shape, num_layers=1000).num_layers == 1000
    with pytest.raises(InvalidValueError, match="num_layers is 1000000000; choose a whole number from 1 to 1000"):
        replace(shape, num_layers=10**9)
