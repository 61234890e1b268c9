"""``megacontext train``: what runs learn, what they begin with, and the configurations that come along."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.cli.train.conftest import CONFIG
from transformers import Qwen3Config, Qwen3ForCausalLM

from megacontext.training.bundled import BUNDLED, config_path
from megacontext.training.settings import read_settings

ROOT = Path(__file__).parents[3]


def test_a_base_then_its_memory(train, place):
    result = train("base.toml", "base")
    assert result.code == 0, result.err
    assert result.out.startswith("step 4, 512 tokens, ")
    assert str(place / "base" / "checkpoint.pt") in result.out
    records = [json.loads(line) for line in (place / "base" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert {"nll", "tokens_per_second", "mfu", "gist_gate/layer_0"} <= set(records[-1])
    start = json.loads((place / "base" / "starts.jsonl").read_text())
    assert (start["peak_tflops"], start["peak_source"]) == (0.001, "[loop] peak_tflops")
    data = train("memory.toml", "memory", "--start", place / "base" / "checkpoint.pt", "--json").data
    assert data["state"]["tokens_by_row_kind"] == {"aligned_192_gists_32_1": 4 * 2 * 192}
    records = [json.loads(line) for line in (place / "memory" / "log.jsonl").read_text().splitlines()]
    assert records[-1]["gist/norm"] > 0


def test_a_run_that_learns_gists_looks_at_held_out_text(train, place):
    longer = CONFIG.replace("max_positions = 256", "max_positions = 1024").replace(
        "log_every", "probe_every = 3\nlog_every"
    )
    (place / "base.toml").write_text(longer)
    assert train("memory.toml", "memory").code == 0
    records = [json.loads(line) for line in (place / "memory" / "log.jsonl").read_text().splitlines()]
    named = {"delta_nll_64/level_1", "delta_nll_64/level_2", "gists_save_64/level_1/of_none"}
    assert [named <= set(record) for record in records] == [False, False, True, False]


LONG = CONFIG.replace("max_positions = 256", "max_positions = 2048").replace("length = 64", "length = 2048")


def test_a_base_that_uses_no_far_context_is_told_of_or_stops(train, place):
    (place / "base.toml").write_text(LONG + '[gate]\nrows = 1\nwhen_missed = "stop"\n')
    stopped = train("base.toml", "base")
    assert stopped.code == 1
    (line,) = [line for line in stopped.err.splitlines() if "far context" in line]
    assert "does not use far context as [gate] asks: " in line
    assert "far words of " in line
    assert (place / "base" / "checkpoint.pt").is_file()
    records = [json.loads(one) for one in (place / "base" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 4]
    assert records[-1]["gate/is_reached"] == 0
    (place / "base.toml").write_text(LONG)
    warned = train("base.toml", "memory")
    assert warned.code == 0, warned.err
    assert warned.out.startswith("step 4, ")
    assert "Gists of it will stand in for little" in warned.err


def test_a_gate_that_cannot_be_measured_is_refused_before_a_run(train, place):
    (place / "base.toml").write_text(CONFIG + "[gate]\n")
    refused = train("base.toml", "base")
    assert refused.code == 2
    assert "[gate] judges by windows of 2,048 tokens, but the longest row is 64" in refused.err
    assert not (place / "base" / "log.jsonl").exists()


def test_a_core_begins_with_a_plain_model(train, place, prepared, monkeypatch):
    model = place / "model"
    plain = Qwen3Config(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        tie_word_embeddings=False,
    )
    Qwen3ForCausalLM(plain).save_pretrained(model)
    refused = train("base.toml", "base", "--start", model)
    assert refused.code == 2
    assert "rotary_dims is 8, but weights of" in refused.err
    shaped = CONFIG.replace("rotary_dims = 8", f"rotary_dims = 14\nrotary_base = {1e4 ** (7 / 8)!r}")
    (place / "base.toml").write_text(shaped)
    assert "holds no tokenizer.json" in train("base.toml", "base", "--start", model).err
    assert not (place / "base" / "checkpoint.pt").exists()
    shutil.copy(prepared / "tokenizer" / "tokenizer.json", model)
    monkeypatch.chdir(place)  # a folder of the user's, not one beside the bundled models
    result = train("base.toml", "base", "--start", "model")
    assert result.out.startswith("step 4, 512 tokens, "), result.err


def test_bundled_configurations_have_names(monkeypatch, place):
    monkeypatch.chdir(place)
    for name in BUNDLED:
        assert read_settings(config_path(Path(name))).vocab_size == 4096
    (place / "base").rename(place / "elsewhere")
    (place / "base").write_text(CONFIG)  # a file of that name is meant first
    assert read_settings(config_path(Path("base"))).vocab_size == 512


def test_every_bundled_configuration_is_in_the_wheel():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    expected = {f"recipes/core/{name}.toml": f"megacontext/training/configs/{name}.toml" for name in BUNDLED}
    assert wheel["force-include"] == expected
    assert all((ROOT / path).is_file() for path in expected)


def test_help_does_without_torch():
    script = "import sys; from megacontext.cli.main import run; run(sys.argv[1:]); assert 'torch' not in sys.modules"
    for arguments in (["--help"], ["train", "--help"]):
        subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, timeout=120)
