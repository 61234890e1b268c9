"""What a configuration says beside the nets, read and checked in one place.

A run and its dry run read the same plan: what the one refuses, the other must not accept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from megacontext.training.curriculum import Stage
from megacontext.training.loop import LoopConfig
from megacontext.training.optim import OptimConfig
from megacontext.training.settings import Settings

__all__ = ["Plan"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a configuration says beside the nets, checked whole."""

    loop: LoopConfig
    optim: OptimConfig
    shares: Mapping[str, float]
    stages: tuple[Stage, ...]

    @classmethod
    def read(cls, settings: Settings, *, max_minutes: float | None = None) -> Plan:
        """From the tables; raises InvalidValueError for what they cannot say. max_minutes: of the command line."""
        return cls(
            loop=settings.read("loop", LoopConfig, max_minutes=max_minutes),
            optim=settings.read("optim", OptimConfig),
            shares=settings.shares,
            stages=settings.stages(max_positions=settings.table("model").get("max_positions")),
        )

    @property
    def least_tokens(self) -> dict[str, int]:
        """How many tokens the longest row needs of each domain that is drawn."""
        longest = max(batch.length for stage in self.stages for batch in stage.batches)
        return {domain: longest + 2 for domain, share in self.shares.items() if share}
