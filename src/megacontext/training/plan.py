"""What a configuration says beside the nets, read and checked in one place.

A run and its dry run read the same plan: what the one refuses, the other must not accept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megacontext.errors import InvalidValueError
from megacontext.training.base_gate import GateConfig
from megacontext.training.curriculum import Stage
from megacontext.training.loop import LoopConfig
from megacontext.training.optim import OptimConfig
from megacontext.training.scoring import WINDOW
from megacontext.training.settings import Settings

__all__ = ["Plan"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a configuration says beside the nets, checked whole. gate: what a base is judged by when its run is over;
    None for runs that learn memory or shorter rows, unless they ask for it; vocab_size: of the tokenizer."""

    vocab_size: int
    loop: LoopConfig
    optim: OptimConfig
    shares: Mapping[str, float]
    stages: tuple[Stage, ...]
    gate: GateConfig | None = None

    @classmethod
    def read(cls, settings: Settings, *, max_minutes: float | None = None) -> Plan:
        """From the tables; raises InvalidValueError for what they cannot say. max_minutes: of the command line."""
        stages = settings.stages()
        _refuse_without_gists(settings, stages)
        return cls(
            vocab_size=settings.vocab_size,
            loop=settings.read("loop", LoopConfig, max_minutes=max_minutes),
            optim=settings.read("optim", OptimConfig),
            shares=settings.shares,
            stages=stages,
            gate=_gate(settings, stages),
        )

    @property
    def least_tokens(self) -> dict[str, int]:
        """How many tokens the longest row needs of each domain that is drawn."""
        longest = _longest(self.stages)
        return {domain: longest + 2 for domain, share in self.shares.items() if share}


def _refuse_without_gists(settings: Settings, stages: Sequence[Stage]) -> None:
    """What shows gists needs a net that makes them, and the other way round."""
    showing = [(stage, batch) for stage in stages for batch in stage.batches if batch.gists is not None]
    if "gist_net" not in settings:
        for stage, batch in showing:
            raise InvalidValueError(
                f"{settings.path}: [[stage]] {stage.name!r}, batch {batch.name!r} shows gists, but there is no "
                "[gist_net] that makes them; add it, or leave gists out"
            )
        if "memory" in settings:
            raise InvalidValueError(
                f"{settings.path}: [memory] is how a [gist_net] is taught; add that, or leave it out"
            )
    elif not showing:
        raise InvalidValueError(
            f"{settings.path}: there is a [gist_net], but no batch shows gists, so it would never be taught; give one "
            "gists = { ... }, or leave [gist_net] out"
        )


def _longest(stages: Sequence[Stage]) -> int:
    return max(batch.length for stage in stages for batch in stage.batches)


def _gate(settings: Settings, stages: Sequence[Stage]) -> GateConfig | None:
    config, longest = settings.read("gate", GateConfig), _longest(stages)
    if longest >= WINDOW:
        return config if "gate" in settings or "gist_net" not in settings else None
    if "gate" in settings:
        raise InvalidValueError(
            f"{settings.path}: [gate] judges by windows of {WINDOW:,} tokens, but the longest row is {longest}; add "
            "longer ones, or leave [gate] out"
        )
    return None
