"""What a core's ``config.json`` may say: as it is written, and one line for each thing that cannot be true."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megacontext.bases.core_config import check_core_config
from megacontext.bases.registry import BUNDLED_FOLDER
from megacontext.errors import BaseModelError

FILE = Path("model") / "config.json"
Config = dict[str, Any]


@pytest.fixture
def config() -> Config:
    content: Config = json.loads((BUNDLED_FOLDER / "reference-core" / "config.json").read_text())
    return copy.deepcopy(content)


def test_what_was_exported_is_true(config: Config) -> None:
    check_core_config(config, FILE)
    del config["trained_shapes"]  # of a folder that was written before
    check_core_config(config, FILE)
    for name in ("gist_net", "lens_net"):
        del config[name], config["weights"][name]
        check_core_config(config, FILE)
    del config["eos_token_id"], config["learned_positions"]
    check_core_config(config, FILE)


def without(name: str) -> Callable[[Config], object]:
    return lambda config: config.pop(name)


def with_(**values: object) -> Callable[[Config], object]:
    return lambda config: config.update(values)


def of_net(name: str, **values: object) -> Callable[[Config], object]:
    return lambda config: config[name].update(values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_(vocab_size=4000), "vocab_size is 4000, but vocab_size of its core 4096"),
        (with_(vocab_size="4096"), r"vocab_size is '4096'; it is a whole number from 1 to"),
        (without("vocab_size"), r"vocab_size is None; it is a whole number from 1 to"),
        (with_(max_position_embeddings=0), "max_position_embeddings is 0; it is a whole number from 1 to 16777216"),
        (with_(max_position_embeddings=4096.0), "max_position_embeddings is 4096.0; it is a whole number"),
        (with_(max_position_embeddings=True), "max_position_embeddings is True; it is a whole number"),
        (with_(max_position_embeddings=10**12), "max_position_embeddings is 1000000000000; it is a whole number"),
        (with_(max_position_embeddings=8192), "is 8192, but max_positions of its core 4096"),
        (lambda config: config["core"].update(max_positions="x"), "is 4096, but max_positions of its core 'x'"),
        (lambda config: config["core"].pop("max_positions"), "is 4096, but max_positions of its core None"),
        (with_(learned_positions=4097), "learned_positions is 4097; it is a whole number from 1 to 4096"),
        (with_(dtype="int8"), "dtype is 'int8'; it is one of bfloat16, float16, float32"),
        (without("dtype"), "dtype is None; it is one of"),
        (with_(eos_token_id=4096), "eos_token_id is 4096; it is a whole number from 0 to 4095"),
        (with_(eos_token_id="end"), "eos_token_id is 'end'; it is a whole number"),
        (with_(model_type="llama"), "model_type is 'llama', but that of a core is 'megacontext_core'; give the folder"),
        (without("model_type"), "model_type is None, but that of a core is"),
        (with_(max_positions=4096), "has an unknown key 'max_positions'; known are model_type, vocab_size, max_pos"),
        (with_(weights={}), r"the sha256 of core\.safetensors is missing under weights"),
        (without("weights"), "weights is None; it gives the sha256 of each weights file"),
        (with_(weights=["core"]), r"weights is \['core'\]; it gives the sha256"),
        (lambda config: config["weights"].pop("gist_net"), r"sha256 of gist_net\.safetensors is missing under weights"),
        (lambda config: config["weights"].update(core="abc"), r"sha256 of core\.safetensors is 'abc' under weights"),
        (without("lens_net"), "weights names 'lens_net', which it does not describe"),
        (lambda config: config["weights"].update(model_type="x"), "weights names 'model_type', which it does not"),
        (with_(core=[]), "describes no core with its width"),
        (with_(gist_net={}), "describes no gist_net with its width"),
        (with_(trained_shapes={}), r"trained_shapes is \{\}; beside a gist_net it lists pairs of block tokens"),
        (with_(trained_shapes=[[32]]), r"trained_shapes is \[\[32\]\]; beside a gist_net"),
        (with_(trained_shapes=[[32, 1.0]]), r"trained_shapes is \[\[32, 1\.0\]\]; beside"),
        (with_(trained_shapes=[[8, 16]]), r"trained_shapes is \[\[8, 16\]\]; beside"),
        (
            lambda config: (config.pop("gist_net"), config["weights"].pop("gist_net")),
            r"trained_shapes is \[.*\]; beside a gist_net",
        ),
    ],
)
def test_what_cannot_be_true_is_one_line(config: Config, change: Callable[[Config], object], said: str) -> None:
    change(config)
    with pytest.raises(BaseModelError, match=said) as caught:
        check_core_config(config, FILE)
    assert str(caught.value).startswith(f"{FILE}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of_net("core", num_heads=3), r"core has an impossible shape: num_heads is 3; it must be a multiple of num_kv"),
        (of_net("core", num_heads=2.0), "core .*: num_heads is 2.0; choose a whole number from 1 to 1000"),
        (of_net("core", width="32"), "core .*: width is '32'; choose a whole number of at least 1"),
        (of_net("core", rotary_base="x"), "core .*: rotary_base is 'x'; choose a finite number above 1"),
        (of_net("core", rotary_base=float("nan")), "core .*: rotary_base is nan; choose a finite number above 1"),
        (of_net("core", rotary_dims="8"), "core .*: rotary_dims is '8'; choose a whole number"),
        (of_net("core", num_slow_bands=0.0), "core .*: num_slow_bands is 0.0; choose a whole number"),
        (of_net("core", learns_sigma=1), "core .*: learns_sigma is 1; choose True or False"),
        (of_net("core", num_layers=10**9), "core .*: num_layers is 1000000000; choose a whole number from 1 to 1000"),
        (of_net("core", num_wings=2), "core has an unknown key 'num_wings'; known are vocab_size, width"),
        (of_net("gist_net", width=16), "its gist_net has width 16, but its core 256; use the nets that were trained"),
        (of_net("gist_net", num_layers=1001), "gist_net .*: num_layers is 1001; choose a whole number from 1 to 1000"),
        (of_net("gist_net", num_pool_heads=0), "gist_net .*: num_pool_heads is 0; choose"),
        (of_net("lens_net", width=128), "its lens_net has width 128, but its core 256"),
        (of_net("lens_net", features=5), r"lens_net .*: features is 5; give a list of non-empty texts, \[\] for none"),
        (of_net("lens_net", features="lexical"), "lens_net .*: features is 'lexical'; give a list"),
        (of_net("lens_net", features=["level", "foo"]), "lens_net .*: .* the features level, foo, of which each has"),
        (of_net("lens_net", key_dim=-1), "lens_net .*: key_dim is -1; choose a whole number of at least 1"),
        (of_net("lens_net", num_heads="4"), "lens_net .*: num_heads is '4'; choose a whole number from 1 to 1000"),
        (of_net("lens_net", query_tokens=0), "lens_net .*: query_tokens is 0; choose a whole number of at least 1"),
        (of_net("lens_net", mlp_width=0), "lens_net .*: mlp_width is 0; choose"),
        (of_net("lens_net", num_word_heads=0), "lens_net .*: num_word_heads is 0; choose"),
        (of_net("lens_net", num_word_heads=10**9), "lens_net .*: num_word_heads is 1000000000; choose .* to 1000"),
        (of_net("lens_net", direct="yes"), "lens_net .*: direct is 'yes'; choose True or False"),
    ],
)
def test_a_net_of_no_possible_shape_is_one_line(config: Config, change: Callable[[Config], object], said: str) -> None:
    change(config)
    with pytest.raises(BaseModelError, match=said) as caught:
        check_core_config(config, FILE)
    assert str(caught.value).startswith(f"{FILE}: ")
    assert "\n" not in str(caught.value)


def test_a_lens_of_another_version_stands_in_no_way_where_none_is_read(config: Config) -> None:
    config["lens_net"].update(word_kinds=2, told=True)
    check_core_config(config, FILE, with_lens=False)
    with pytest.raises(BaseModelError, match="lens_net has an unknown key 'told'"):
        check_core_config(config, FILE)


def test_it_is_known_without_torch() -> None:
    program = "import sys, megacontext.bases.core_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
