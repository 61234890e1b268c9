"""The core against a slow reference, and what a window of entries promises.

Shape legend: T entries, D width, H query heads, G key-value heads, E head dimension.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gaussian_rope import frequencies
from megacontext.nets.shapes import CoreConfig

SMALL = CoreConfig(
    vocab_size=64,
    width=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_width=48,
    rotary_dims=8,
    max_positions=128,
)


def core(config: CoreConfig = SMALL, *, seed: int = 0) -> Core:
    """A small core whose every weight matters (nothing left at its silent start)."""
    generator = torch.Generator().manual_seed(seed)
    made = Core(config).double()
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim == 2:
                weight.copy_(torch.randn(weight.shape, generator=generator).double() * weight.shape[-1] ** -0.5)
            elif weight.ndim == 1:
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator).double())
    return made.eval()


def window(num_entries: int, *, gists: tuple[int, ...] = (), seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Entries [1, T, D], positions and spreads; the entries at ``gists`` are spans of 8 tokens."""
    generator = torch.Generator().manual_seed(seed)
    entries = torch.randn(1, num_entries, SMALL.width, generator=generator).double()
    sigma = torch.zeros(1, num_entries, dtype=torch.float64)
    sigma[0, list(gists)] = 8 / math.sqrt(12)
    return entries, torch.arange(num_entries).double()[None] * 1.5, sigma


def slow_reference(made: Core, entries_TD: Tensor, mu_T: Tensor, sigma_T: Tensor) -> Tensor:
    """Logits, one entry and one head at a time, from the definition."""
    config = made.config
    omega_F = frequencies(config.rotary_dims, base=config.rotary_base)
    num_pairs, num_entries = config.rotary_dims // 2, len(entries_TD)

    def norm(x: Tensor, gain: Tensor) -> Tensor:
        return x * gain / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()

    def place(x_E: Tensor, t: int) -> Tensor:
        pairs = torch.complex(x_E[:num_pairs], x_E[num_pairs : 2 * num_pairs])
        pairs = pairs * torch.exp(1j * mu_T[t] * omega_F) * torch.exp(-((omega_F * sigma_T[t]) ** 2) / 2)
        return torch.cat([pairs.real, pairs.imag, x_E[2 * num_pairs : -1]])

    x_TD = entries_TD.clone()
    for t in range(num_entries):
        for distance, shift in enumerate(made.shifts, start=1):
            if t >= distance:
                x_TD[t] += shift(entries_TD[t - distance])
    for layer in made.layers:
        attention = layer.attention
        normed_TD = norm(x_TD, layer.attention_norm.weight)
        heads_out = torch.zeros(num_entries, config.num_heads, config.head_dim).double()
        for head in range(config.num_heads):
            group = head * config.num_kv_heads // config.num_heads
            q_TE = attention.q_proj(normed_TD).view(num_entries, config.num_heads, -1)[:, head]
            k_TE = attention.k_proj(normed_TD).view(num_entries, config.num_kv_heads, -1)[:, group]
            v_TE = attention.v_proj(normed_TD).view(num_entries, config.num_kv_heads, -1)[:, group]
            q_TE, k_TE = norm(q_TE, attention.q_gain), norm(k_TE, attention.k_gain)
            for t in range(num_entries):
                scores = torch.stack(
                    [
                        place(q_TE[t], t) @ place(k_TE[s], s) / math.sqrt(config.head_dim)
                        + attention.gist_bias[group] * float(sigma_T[s] > 0)
                        for s in range(t + 1)
                    ]
                )
                heads_out[t, head] = scores.softmax(0) @ v_TE[: t + 1]
        x_TD = x_TD + attention.o_proj(heads_out.flatten(1))
        normed_TD = norm(x_TD, layer.mlp_norm.weight)
        x_TD = x_TD + layer.mlp.down(torch.nn.functional.silu(layer.mlp.gate(normed_TD)) * layer.mlp.up(normed_TD))
    return made.head(norm(x_TD, made.norm.weight))


@pytest.mark.parametrize("gists", [(), (0, 3, 4)])
def test_logits_equal_a_slow_reference(gists: tuple[int, ...]) -> None:
    made = core()
    entries, mu, sigma = window(9, gists=gists)
    with torch.no_grad():
        ours = made.logits(made(entries, mu, sigma).hidden_BTD)[0]
        expected = slow_reference(made, entries[0], mu[0], sigma[0])
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)


def test_a_window_of_tokens_alone_is_the_plain_decoder() -> None:
    """Whatever was learned about gists leaves plain text alone, to the bit."""
    made, other = core(), core()
    with torch.no_grad():
        for layer in other.layers:
            layer.attention.gist_bias.fill_(-7.0)
        other.log_sigma_scale.fill_(2.0)
        entries, mu, sigma = window(12)
        ours, theirs = (net(entries, mu, sigma).hidden_BTD for net in (made, other))
        entries, mu, sigma = window(12, gists=(2,))
        changed = (made(entries, mu, sigma).hidden_BTD != other(entries, mu, sigma).hidden_BTD).any()
    assert torch.equal(ours, theirs)
    assert changed


def test_entries_see_nothing_that_comes_later() -> None:
    made = core()
    entries, mu, sigma = window(10, gists=(1,))
    later = entries.clone()
    later[0, 6:] += 1.0
    with torch.no_grad():
        ours, theirs = (made(inputs, mu, sigma).hidden_BTD for inputs in (entries, later))
    torch.testing.assert_close(ours[:, :6], theirs[:, :6], atol=1e-12, rtol=0.0)
    assert not torch.allclose(ours[:, 6:], theirs[:, 6:])


class ListCache:
    """Keys and values of all layers, concatenated."""

    tap_layer = 1

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.queries: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        if layer in self.kept:
            keys, values = (torch.cat([old, new], 2) for old, new in zip(self.kept[layer], (keys, values), strict=True))
        self.kept[layer] = (keys, values)
        return keys, values

    def record_queries(self, queries: Tensor, scaling: float) -> None:
        self.queries.append(queries)


def test_a_cache_gives_what_a_fresh_forward_gives() -> None:
    made = core()
    entries, mu, sigma = window(11, gists=(0, 5))
    cache = ListCache()
    parts = []
    with torch.no_grad():
        whole = made(entries, mu, sigma).hidden_BTD
        for start, stop in ((0, 4), (4, 5), (5, 11)):
            mask = None
            if start and stop - start > 1:
                mask = torch.ones(stop - start, stop, dtype=torch.bool).tril(start)
            before = torch.cat([torch.zeros(1, 2, SMALL.width).double(), entries], 1)[:, start : start + 2]
            part = slice(start, stop)
            out = made(entries[:, part], mu[:, part], sigma[:, part], before_BTD=before, mask=mask, cache=cache)
            parts.append(out.hidden_BTD)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-10, rtol=1e-10)
    assert [queries.shape[2] for queries in cache.queries] == [4, 1, 6]


def test_the_tap_is_the_stream_after_its_layer() -> None:
    made, first = core(), core(replace(SMALL, num_layers=1))
    first.load_state_dict({name: each for name, each in made.state_dict().items() if not name.startswith("layers.1.")})
    entries, mu, sigma = window(5)
    with torch.no_grad():
        out, last = (made(entries, mu, sigma, tap_layer=layer) for layer in (0, 1))
        alone = first(entries, mu, sigma).hidden_BTD
    assert out.tapped_BTD is not None
    assert last.tapped_BTD is not None
    torch.testing.assert_close(made.norm(out.tapped_BTD), alone)
    torch.testing.assert_close(made.norm(last.tapped_BTD), last.hidden_BTD)
    assert not torch.allclose(alone, last.hidden_BTD, atol=1e-2)
    torch.testing.assert_close(out.hidden_BTD, last.hidden_BTD)
    assert made(entries, mu, sigma).tapped_BTD is None


def test_a_fresh_core_predicts_nothing_yet_and_learns_through_every_weight() -> None:
    torch.manual_seed(0)
    made = Core(replace(SMALL, learns_sigma=True))
    ids, mu, sigma = torch.arange(12), torch.arange(12).double()[None], torch.zeros(1, 12)
    sigma[0, 3] = 4.0

    def loss() -> Tensor:
        hidden = made(made.embed(ids[None]), mu, sigma).hidden_BTD
        return torch.nn.functional.cross_entropy(made.logits(hidden)[0], ids)

    assert float(loss().detach()) == pytest.approx(math.log(SMALL.vocab_size), abs=0.05)
    for _ in range(3):  # what starts at zero opens the way for the rest
        made.zero_grad()
        loss().backward()
        with torch.no_grad():
            for weight in made.parameters():
                weight -= 0.5 * weight.grad
    silent = [name for name, weight in made.named_parameters() if not weight.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [("num_heads", 3, "multiple of num_kv_heads"), ("rotary_dims", 16, "between 2 and 15"), ("rotary_dims", 7, "even"),
     ("num_slow_bands", 5, "between 0 and 4")],
)  # fmt: skip
def test_an_impossible_shape_is_refused(field: str, value: int, limit: str) -> None:
    with pytest.raises(InvalidValueError, match=limit):
        replace(SMALL, **{field: value})
