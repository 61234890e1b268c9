"""Everything that runs on a device, on one that is made up: what mixes devices fails here, without a GPU.

Its tensors have shapes and no numbers; what is different there is compared with the usual on a CPU.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.bases.pretended_device import DEVICE, moved_there, pretended_device
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import AutoModelForCausalLM

from megacontext.bases import attention, rearranging
from megacontext.bases.huggingface import HuggingFaceBase
from megacontext.bases.key_turning import KeyTurning, LayerTurning
from megacontext.bases.native import NativeBase
from megacontext.focus.lenses.features import word_features
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.runtime import assembly
from megacontext.testing.fake_base import byte_codec, tiny_base, tiny_model
from megacontext.testing.fake_core import TINY_CORE, TINY_GIST_NET, TINY_LENS_NET, tiny_core_base

INFO = replace(tiny_core_base().info, device=DEVICE.type)


def core_there(*, num_layers: int = 2) -> NativeBase:
    """The tiny core with a GistNet and a LensNet."""
    with unset_fake_temporarily():
        core = Core(replace(TINY_CORE, num_layers=num_layers)).to(torch.bfloat16)
        gist_net, lens_net = GistNet(TINY_GIST_NET).to(torch.bfloat16), LensNet(TINY_LENS_NET)
        base = NativeBase(core, byte_codec(), INFO, gist_net=gist_net, lens_net=lens_net)
    for net in (core, gist_net, lens_net):
        moved_there(net)
    base._device = DEVICE
    return base


def huggingface_there(*, num_layers: int = 2) -> HuggingFaceBase:
    """A tiny Qwen3. How its keys turn cannot be found by looking at tensors without numbers."""
    with unset_fake_temporarily():
        config = tiny_model("qwen3").config
        config.num_hidden_layers, config.layer_types = num_layers, ["full_attention"] * num_layers
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    moved_there(model)
    base = HuggingFaceBase(model, byte_codec(), INFO)
    base._turning = KeyTurning({layer: LayerTurning() for layer in range(num_layers)})
    return base


BASES = {"native": core_there, "hugging face": huggingface_there}


def patched(base, cache):
    """A patch of a window of 40 rows that forgets, moves and runs some in the middle; its spreads are not all 0."""
    kept = np.concatenate([np.arange(10), np.arange(15, 40)])
    return base.patch(
        base.embed(np.arange(8, dtype=np.uint32)),
        np.arange(8.0) + 10.5,
        cache,
        kept_n=kept,
        moved_n=np.where(kept < 10, 0.0, 3.5),
        places_T=np.arange(8) + 10,
        spreads_T=np.linspace(0, 1, 8, dtype=np.float32),
        num_logits=8,
    )


@pytest.mark.parametrize("kind", BASES)
def test_forward_decode_and_patch(kind):
    with pretended_device():
        base = BASES[kind]()
        cache = base.new_cache(40)
        logits = base.forward(base.embed(np.arange(40, dtype=np.uint32)), np.arange(40.0), cache, num_logits=3)
        assert (logits.device, logits.shape) == (DEVICE, (3, 256))
        assert patched(base, cache).shape == (8, 256)
        base.forward(base.embed(np.arange(2, dtype=np.uint32)), np.array([50.25, 51.25]), cache)
        others = [base.new_cache(4), cache]
        base.forward(base.embed(np.arange(3, dtype=np.uint32)), np.arange(3.0), others[0])
        logits = base.decode_batch(base.embed(np.arange(2, dtype=np.uint32)), np.array([3.0, 52.25]), others)
        assert (logits.device, logits.shape) == (DEVICE, (2, 256))
        assert base.attention_mass(cache, num_queries=4).shape == (46,)
        assert base.surprise(np.zeros((3, 8), dtype=np.uint32)).shape == (3, 8)
        assert base.values_of(cache, np.arange(5)).device == DEVICE
        cache.truncate(12)
        assert base.cache_state(cache)["keys.0"].device.type == "cpu"


def test_the_nets_that_learned_with_the_core():
    with pretended_device() as counts:
        base = core_there()
        assert base.gists_of_tokens(np.zeros((33, 8), dtype=np.uint32), gist_width=2).shape == (33, 2, 32)
        assert counts == {"uploads": 1, "downloads": 3}, "token ids; a slice of gists at a time"
        assert base.gists_of_gists(np.zeros((3, 8, 2, 32), dtype=np.float16), level=2).shape == (3, 2, 32)
        cache = base.new_cache(8)
        base.forward(base.embed(np.arange(8, dtype=np.uint32)), np.arange(8.0), cache)
        query = base.lens_query(cache, num_queries=6)
        keys = base.lens_keys(np.zeros((5, 2, 32), dtype=np.float16))
        assert keys.device == DEVICE
        features = np.zeros((5, len(base.lens_features)), dtype=np.float32)
        assert query.evidence(keys, features).shape == (5,)
        words = word_features(np.zeros((5, 20), dtype=np.int64), np.arange(6)).words
        assert query.evidence(keys, features, words).shape == (5,)
        assert len(query.stakes[1]) == 2


def filled(base):
    """A cache of 40 entries."""
    cache = base.new_cache(40)
    base.forward(base.embed(np.arange(40, dtype=np.uint32)), np.arange(40.0), cache)
    return cache


@pytest.mark.parametrize("base", [tiny_core_base(), tiny_base("llama")], ids=BASES)
def test_a_patch_by_biases_is_one_by_a_bool_mask(base, monkeypatch):
    by_biases = patched(base, filled(base))
    monkeypatch.setattr(rearranging, "kernel_mask", lambda may_look_TS, dtype: may_look_TS)
    torch.testing.assert_close(by_biases, patched(base, filled(base)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", BASES)
def test_a_patch_copies_no_keys_for_query_heads(kind, monkeypatch):
    copies = []

    def copied(*given, **named):
        copies.append(given)
        raise AssertionError("keys and values of the whole window are copied")

    with pretended_device():
        base = BASES[kind]()
        cache = filled(base)
        monkeypatch.setattr(torch.Tensor, "repeat_interleave", copied)
        monkeypatch.setattr(attention, "sdpa_attention_forward", copied)
        assert patched(base, cache).shape[-1] == base.info.vocab_size
    assert copies == []


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("num_layers", [1, 6])
def test_a_step_goes_over_at_once_however_many_layers_there_are(kind, num_layers):
    with pretended_device() as counts:
        base = BASES[kind](num_layers=num_layers)
        cache = filled(base)
        counts.clear()
        patched(base, cache)
        assert counts["uploads"] == {"native": 2, "hugging face": 3}[kind]  # token ids; all else; phases of its own
        counts.clear()
        base.forward(base.embed(np.arange(1, dtype=np.uint32)), np.array([60.0]), cache)
        assert counts == {}


def written(folder, *, gister):
    memory = assembly.open(folder / "memory", base=core_there(), create=True, gister=gister, block_tokens=8)
    (folder / "text.txt").write_text("Kolibri walked along the river. " * 20)
    memory.ingest(folder / "text.txt")
    return memory


def test_a_refocus_copies_five_times(tmp_path):
    with (
        pretended_device() as counts,
        written(tmp_path, gister="mean") as memory,
        memory.session(budget_entries=200, lens="recency") as session,
    ):
        session.nll([1, 2, 3])
        session.reveal(300, 316)
        counts.clear()
        session.nll([1])
        assert counts["uploads"] == 5, "token ids; gists; which are probes; all of the patch; where probes lie then"
        assert counts["downloads"] == 2, "how far the window has drifted; what was asked for"


def test_an_answer_with_learned_gists_and_the_learned_lens(tmp_path):
    with (
        pretended_device(),
        written(tmp_path, gister="gistnet") as memory,
        memory.session(budget_entries=200, lens="auto", refocus_interval=4) as session,
    ):
        assert list(session.generate("abc", max_new_tokens=8, stop=()))
