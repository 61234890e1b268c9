"""Configs of bases: what is shipped is consistent and serves, what is damaged is named, and defaults reach who uses
them."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
import transformers

import megacontext as mc
from megacontext.bases.describing import describe, whole_config
from megacontext.bases.profiles import PUBLISHED_FOLDER, BaseProfile, find_profile, published_profiles, read_profile
from megacontext.bases.registry import BaseHandle
from megacontext.bases.supported import markdown_table, rows
from megacontext.bases.traits import check_config
from megacontext.cli.score import _methods as score_methods
from megacontext.errors import BaseModelError
from megacontext.testing.tiny_families import family_config

PROFILES = {profile.name: profile for profile in published_profiles()}
DOCS = Path(__file__).parents[2] / "docs"
# What issue and docs promise.
FAMILIES = {
    *("Llama 2", "Llama 3", "Qwen2", "Qwen2.5", "Qwen3", "Qwen3-MoE", "Mistral", "Mixtral", "Gemma 2", "Gemma 3"),
    *("Phi-3", "Phi-4", "SmolLM2", "SmolLM3", "OLMo 2", "OLMo 3", "Granite", "DeepSeek-V2", "DeepSeek-V3"),
    *("GPT-NeoX", "GPT-OSS", "Qwen-VL", "LLaVA"),
}

# What transformers keeps under another name or as another kind.
READ_OTHERWISE = ("model_type", "dtype", "torch_dtype", "sliding_window_pattern")


@pytest.fixture(params=PROFILES.values(), ids=PROFILES)
def profile(request: pytest.FixtureRequest) -> BaseProfile:
    return request.param


def config_of(profile: BaseProfile) -> transformers.PretrainedConfig:
    return transformers.AutoConfig.for_model(**copy.deepcopy(dict(profile.config)))


def test_every_family_has_a_config() -> None:
    assert {profile.family for profile in PROFILES.values()} == FAMILIES
    assert len(PROFILES) == len(list(PUBLISHED_FOLDER.glob("*.toml"))) == len(rows())


def test_a_shipped_config_says_where_it_is_from(profile: BaseProfile) -> None:
    assert profile.sources
    assert profile.is_verified or profile.why_not
    assert find_profile(profile.name, Path("nowhere")) == profile


def test_a_shipped_config_is_what_transformers_reads_in_it(profile: BaseProfile) -> None:
    whole = whole_config(profile.config, profile.name)
    check_config(whole, profile.name)
    assert describe(whole) == profile.traits
    given = profile.config.get("text_config", profile.config)
    text = config_of(profile).get_text_config(decoder=True)
    for key, value in given.items():  # nothing was dropped or renamed on the way
        if not key.startswith(("rope", "rotary")) and key not in READ_OTHERWISE:
            read = getattr(text, key, getattr(config_of(profile), key, None))
            if not (key == "sliding_window" and not getattr(text, "use_sliding_window", True)):
                assert read == value, key


def test_the_sizes_of_a_shipped_config_fit_each_other(profile: BaseProfile) -> None:
    traits, text = profile.traits, config_of(profile).get_text_config(decoder=True)
    assert traits.num_heads % traits.num_kv_heads == 0
    assert traits.head_dim % 2 == 0
    assert len(getattr(text, "layer_types", None) or range(traits.num_layers)) == traits.num_layers
    assert traits.longest_window >= text.max_position_embeddings
    assert traits.num_sliding_layers <= traits.num_layers
    assert 0 <= traits.num_experts_per_token <= traits.num_experts
    ropes = text.rope_parameters
    for rope in ropes.values() if all(isinstance(part, dict) for part in ropes.values()) else [ropes]:
        needed = {"rope_theta", "rope_type"} | {
            "linear": {"factor"},
            "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
            "longrope": {"short_factor", "long_factor"},
            "yarn": {"factor", "original_max_position_embeddings"},
        }.get(rope["rope_type"], set())
        assert needed <= set(rope), needed - set(rope)
        pairs = int(traits.head_dim * rope.get("partial_rotary_factor", 1.0)) // 2
        for key in ("short_factor", "long_factor"):
            assert len(rope.get(key, range(pairs))) == pairs
        assert sum(rope.get("mrope_section", [pairs])) == pairs


def test_a_shipped_config_builds_the_model_that_it_counts(profile: BaseProfile) -> None:
    auto = transformers.AutoModelForImageTextToText if profile.traits.sees_images else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config_of(profile))
    model.tie_weights()
    parts = [model.get_decoder(), model.get_output_embeddings()]
    parameters = {id(each): each.numel() for part in parts for each in part.parameters()}
    assert sum(parameters.values()) == profile.num_parameters


def test_the_page_has_the_table() -> None:
    page = (DOCS / "bases.md").read_text()
    table = page.partition("markdown_table -->\n\n")[2].partition("\n<!-- end of table -->")[0]
    assert table == markdown_table()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("format = 2", "is of format 2"),
        ("format = ", "not readable as TOML"),
        ('format = 1\nname = "x"', "family is None"),
        ('format = 1\nname = "x"\nfamily = "y"\nnum_parameters = "many"', "num_parameters is 'many'"),
        ('format = 1\nname = "x"\nfamily = "y"\nnum_parameters = 1\nkv = "exact"', "traits.model_type is None"),
        ("format = 1\ntraits = 3", "name is None"),
    ],
)
def test_what_is_wrong_in_a_config_is_named(tmp_path: Path, written: str, said: str) -> None:
    path = tmp_path / "base.toml"
    path.write_text(written)
    with pytest.raises(BaseModelError, match=said) as raised:
        read_profile(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_wrong_defaults_are_named(tmp_path: Path) -> None:
    shipped = (PUBLISHED_FOLDER / "qwen3-0.6b.toml").read_text()
    path = tmp_path / "base.toml"
    for wrong in ("block_tokens = 3", "gist_widths = 3", 'positions = "global"', "budget_entries = 0"):
        path.write_text(f"{shipped}\n[defaults]\n{wrong}\n")
        with pytest.raises(BaseModelError, match=r"\[defaults\]"):
            read_profile(path)


DEFAULTS = """
[measured]
fingerprint = "{fingerprint}"

[defaults]
dtype = "float32"
block_tokens = 16
gister = "mean"
gist_width = 2
budget_entries = 300
positions = "timeline"
sink_tokens = 7
"""


def test_defaults_of_a_folder_reach_memories_and_sessions(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    plain = BaseHandle(str(folder)).info
    assert plain.defaults == type(plain.defaults)()
    shipped = (PUBLISHED_FOLDER / "qwen3-0.6b.toml").read_text()
    (folder / "megacontext.toml").write_text(shipped + DEFAULTS.format(fingerprint=plain.fingerprint))
    info = BaseHandle(str(folder)).info
    assert (info.dtype, info.positions) == ("float32", "timeline")
    assert BaseHandle(str(folder), dtype="bfloat16").info.dtype == "bfloat16"
    with mc.open(tmp_path / "one.mc", base=folder, create=True) as memory:
        made = memory.info
        assert (made.block_tokens, made.gister_name, made.gist_width) == (16, "mean", 2)
        with memory.session() as session:
            assert session.working_context.config.budget_entries == 300
            shown = session._engine.config
        memory.append_text("Lunch is at noon. " * 40)
        scored, *others = score_methods(memory, None, "auto", num_tokens=4)
        assert scored.session._engine.config == shown, "what is scored is what would be shown"
        assert {method.budget_entries for method in others} == {300}
        for method in (scored, *others):
            method.close()
            assert session.working_context.config.sink_tokens == 7
        with memory.session(budget_entries=400, sink_tokens=0) as session:
            assert session.working_context.config.budget_entries == 400
            assert session.working_context.config.sink_tokens == 0
    with mc.open(tmp_path / "two.mc", base=folder, create=True, block_tokens=32, gist_width=1) as memory:
        assert (memory.info.block_tokens, memory.info.gist_width) == (32, 1)


def test_a_config_of_other_weights_is_refused_and_a_file_may_be_given(model_folder: Path, tmp_path: Path) -> None:
    shipped = (PUBLISHED_FOLDER / "qwen3-0.6b.toml").read_text()
    path = tmp_path / "given.toml"
    path.write_text(shipped + DEFAULTS.format(fingerprint="0" * 64))
    with pytest.raises(BaseModelError, match="written for the base of fingerprint 000000000000"):
        mc.open(tmp_path / "one.mc", base=model_folder, create=True, base_config=path)
    assert not (tmp_path / "one.mc").exists()
    path.write_text(shipped + DEFAULTS.format(fingerprint=""))
    with mc.open(tmp_path / "one.mc", base=model_folder, create=True, base_config=path) as memory:
        assert memory.info.block_tokens == 16


def test_llama3_frequencies_do_not_lengthen_the_window() -> None:
    """Their factor is that of the slowest frequencies: 32 times 8,192 positions are not what Llama 3.2 was made for."""
    traits = PROFILES["meta-llama/Llama-3.2-1B"].traits
    assert (traits.longest_window, traits.rope) == (131072, "llama3 32x")


def test_bytes_of_an_entry_follow_the_precision() -> None:
    profile = PROFILES["Qwen/Qwen3-0.6B"]
    assert profile.traits.kv_bytes_per_entry("float32") == 2 * profile.traits.kv_bytes_per_entry("bfloat16")


def test_layers_without_positions_and_sinks_are_described() -> None:
    config = family_config("granite_swa")
    traits = describe(whole_config(config.to_dict(), "granite_swa"))
    assert traits.summary == (
        "grouped queries 4:2, sliding window 24 in 2 of 4, 1 of 4 layers without positions, sinks, scaled embeddings"
    )
