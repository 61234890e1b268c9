"""Every shipped config: a small model of exactly its traits passes every check that ``megacontext port`` makes."""

from __future__ import annotations

import pytest

from megacontext.bases.describing import describe, whole_config
from megacontext.bases.profiles import BaseProfile, published_profiles
from megacontext.evaluation.porting.checks import CHECKS, Probe
from megacontext.testing.scaled_down import scaled_down
from megacontext.testing.tiny_families import family_base

pytestmark = pytest.mark.portability
TEXT = "The quick brown fox jumps over the lazy dog, and the dog did not even bark at the fox. " * 2
# What shrinking leaves as it is.
SAME = (
    *("model_type", "attention", "longest_window", "has_softcap", "has_sinks", "rope", "rotary_share"),
    *("has_scaled_embeddings", "has_tied_embeddings", "sees_images"),
)


@pytest.fixture(scope="module", params=published_profiles(), ids=lambda profile: profile.name)
def profile(request: pytest.FixtureRequest) -> BaseProfile:
    return request.param


@pytest.fixture(scope="module")
def probe(profile: BaseProfile) -> Probe:
    return Probe.of_text(family_base(scaled_down(profile)), TEXT)


@pytest.mark.parametrize("name", CHECKS)
def test_a_small_model_of_its_traits_passes(name: str, probe: Probe) -> None:
    result = CHECKS[name](probe)
    assert result.passed, result
    assert result.error is not None, result


def test_it_has_those_traits_and_the_cache_that_the_table_says(profile: BaseProfile, probe: Probe) -> None:
    config = scaled_down(profile)
    traits = describe(whole_config(config.to_dict(), profile.name))
    for name in SAME:
        assert getattr(traits, name) == getattr(profile.traits, name), name
    for name in ("num_sliding_layers", "num_unrotated_layers", "num_experts"):
        assert bool(getattr(traits, name)) == bool(getattr(profile.traits, name)), name
    base = probe.base
    assert profile.kv == ("patch" if base.can_patch else "exact")
    assert base.entry_bytes == traits.kv_bytes_per_entry("float32")
