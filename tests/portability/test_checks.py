"""Every family against the checks that ``megacontext port`` makes, in float32."""

from __future__ import annotations

import pytest

from megacontext.evaluation.porting.checks import CHECKS, Probe
from megacontext.testing.tiny_families import FAMILIES, family_base, family_config

pytestmark = pytest.mark.portability
TEXT = "The quick brown fox jumps over the lazy dog, and the dog did not even bark at the fox. " * 2


@pytest.fixture(scope="module", params=FAMILIES)
def probe(request: pytest.FixtureRequest) -> Probe:
    return Probe.of_text(family_base(family_config(request.param)), TEXT)


@pytest.mark.parametrize("name", CHECKS)
def test_a_family_passes(name: str, probe: Probe) -> None:
    result = CHECKS[name](probe)
    assert result.passed, result
