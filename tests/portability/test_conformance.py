"""Every family against the suite that we give to others."""

from __future__ import annotations

import pytest

from megacontext.ports.base import Base
from megacontext.testing.base_suite import BaseSuite
from megacontext.testing.tiny_families import FAMILIES, family_base, family_config

pytestmark = pytest.mark.portability


def suite_of(family: str) -> type[BaseSuite]:
    def make(self: BaseSuite) -> Base:
        return family_base(family_config(family))

    return type(f"Test{family.title().replace('_', '')}", (BaseSuite,), {"make": make})


globals().update({suite.__name__: suite for suite in map(suite_of, FAMILIES)})
