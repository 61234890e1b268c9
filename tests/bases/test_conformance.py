"""Our adapters against the suite that we give to others."""

from __future__ import annotations

from megacontext.ports.base import Base
from megacontext.testing.base_suite import BaseSuite
from megacontext.testing.fake_base import tiny_base
from megacontext.testing.fake_core import tiny_core_base


class TestLlama(BaseSuite):
    def make(self) -> Base:
        return tiny_base("llama")


class TestQwen2(BaseSuite):
    def make(self) -> Base:
        return tiny_base("qwen2")


class TestQwen3(BaseSuite):
    def make(self) -> Base:
        return tiny_base("qwen3")


class TestQwen3InBfloat16(BaseSuite):
    tolerance = 0.25

    def make(self) -> Base:
        return tiny_base("qwen3", dtype="bfloat16")


class TestNativeCore(BaseSuite):
    def make(self) -> Base:
        return tiny_core_base()


class TestNativeCoreInBfloat16(BaseSuite):
    tolerance = 0.25

    def make(self) -> Base:
        return tiny_core_base(dtype="bfloat16")
