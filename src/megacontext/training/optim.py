"""Muon for matrices, AdamW for the rest, both on float32 masters of bfloat16 weights.

A step of 2e-3 on a bfloat16 weight is mostly rounded away; the master keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from megacontext.bases.precision import working_dtype
from megacontext.errors import InvalidValueError
from megacontext.training.muon import Muon
from megacontext.training.team import ALONE, Team
from megacontext.values import number

__all__ = ["MasterOptimizer", "OptimConfig", "schedule"]

MOST_RATE = 10.0  # weights are about 1 or less: nothing learns at such rates


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Peak learning rates; the loop multiplies all of them by the schedule's factor."""

    matrix_rate: float = 0.02
    embedding_rate: float = 5e-3
    head_rate: float = 2e-3
    scale_rate: float = 2e-3
    lens_rate: float = 2e-3
    matrix_decay: float = 0.01
    momentum: float = 0.95
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("matrix_rate", "embedding_rate", "head_rate", "scale_rate", "lens_rate", "matrix_decay"):
            number(name, getattr(self, name), least=0, most=MOST_RATE)
        number("momentum", self.momentum, least=0, below=1)
        number("clip_norm", self.clip_norm, above=0)


def schedule(
    progress: float, step: int, *, warmup_steps: int = 50, decay_from: float = 0.5, floor: float = 0.02
) -> float:
    """Rate factor: linear warm-up over steps, flat, then linear decay from `decay_from` of the run down to `floor`."""
    decay = 1.0 if progress < decay_from else max(floor, (1 - progress) / (1 - decay_from))
    return min(1.0, (step + 1) / warmup_steps) * decay


class MasterOptimizer:
    """Steps float32 masters with the gradients of the working weights, their mean over a team, then writes the weights
    back.

    Why masters: the working weights are bfloat16 where that is what the processor multiplies fast.

    first: what masters begin with where that is more exact than the weights; frozen: weights that are kept with the
    masters, since nothing works without them, and never moved.
    """

    def __init__(
        self,
        named_weights: Iterable[tuple[str, nn.Parameter]],
        config: OptimConfig,
        *,
        team: Team = ALONE,
        first: Mapping[str, Tensor] | None = None,
        frozen: Mapping[str, nn.Parameter] | None = None,
    ) -> None:
        self.config = config
        self.team = team
        self.weights = dict(named_weights)
        exact = first or {}
        self.masters = {
            name: exact.get(name, weight).detach().to(weight.device).float().clone()
            for name, weight in self.weights.items()
        }
        self.frozen = dict(frozen or {})
        groups: dict[str, list[Tensor]] = {"matrix": [], "embedding": [], "head": [], "scale": [], "lens": []}
        for name, master in self.masters.items():
            groups[_group(name, master)].append(master)
        self.optimizers: list[torch.optim.Optimizer] = []
        if groups["matrix"]:
            muon = Muon(
                groups["matrix"],
                lr=config.matrix_rate,
                weight_decay=config.matrix_decay,
                momentum=config.momentum,
                dtype=working_dtype(self.device),
                team=team,
            )
            self.optimizers.append(muon)
        rates = {
            "embedding": config.embedding_rate,
            "head": config.head_rate,
            "scale": config.scale_rate,
            "lens": config.lens_rate,
        }
        parts = [{"params": groups[key], "lr": rate} for key, rate in rates.items() if groups[key]]
        if parts:
            self.optimizers.append(torch.optim.AdamW(parts, betas=(0.9, 0.95), weight_decay=0.0))
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def step(self, factor: float) -> float:
        """Clip, step the masters at `factor` times their peak rates, write back; return the norm before clipping.

        A norm that is not finite is returned, too, and nothing has moved then.
        """
        for name, weight in self.weights.items():
            self.masters[name].grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        self.team.average_(master.grad for master in self.masters.values() if master.grad is not None)
        norm = torch.nn.utils.clip_grad_norm_(self.masters.values(), self.config.clip_norm)
        if not norm.isfinite():
            return float(norm)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            optimizer.step()
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.masters[name])
        return float(norm)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.masters.values())).device

    def state_dict(self) -> dict[str, Any]:
        """Masters and optimiser states: enough to go on to the bit."""
        state = {"masters": self.masters, "optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}
        frozen = {name: weight.detach() for name, weight in self.frozen.items()}
        return state | ({"frozen": frozen} if frozen else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave, and the working weights with it. Rates, decay and momentum are as configured.

        Raises InvalidValueError, changing nothing, if it holds other tensors than these.
        """
        saved_masters = state["masters"]
        for name, master in self.masters.items():
            if name not in saved_masters or saved_masters[name].shape != master.shape:
                found = tuple(saved_masters[name].shape) if name in saved_masters else "not there"
                raise InvalidValueError(
                    f"{name} is {found} in the checkpoint and {tuple(master.shape)} in the configuration; resume with "
                    "the configuration that the run was started with"
                )
        spare = sorted(set(saved_masters) - set(self.masters))
        if spare:
            raise InvalidValueError(
                f"the checkpoint holds {spare[0]}, which the configuration does not train; resume with the "
                "configuration that the run was started with"
            )
        kept = state.get("frozen", {})
        for name, weight in self.frozen.items():
            if name not in kept or kept[name].shape != weight.shape:
                raise InvalidValueError(
                    f"the checkpoint lacks {name}, which is frozen; --start a new run from what that one began with"
                )
        with torch.no_grad():
            for name, weight in self.frozen.items():
                weight.copy_(kept[name])
            for name, master in self.masters.items():
                master.copy_(state["masters"][name])
                self.weights[name].copy_(master)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
            for group in optimizer.param_groups if isinstance(optimizer, Muon) else ():
                group["weight_decay"], group["momentum"] = self.config.matrix_decay, self.config.momentum


def _group(name: str, master: Tensor) -> str:
    """Embeddings, head and tables of places are no maps between hidden spaces: Muon's orthogonal steps do not suit
    them. A lens, which compares, is taught as it is taught alone."""
    if name.startswith("lens_net."):
        return "lens"
    if "embed" in name:
        return "embedding"
    if "head" in name:
        return "head"
    return "matrix" if master.ndim == 2 and name.endswith("weight") else "scale"
