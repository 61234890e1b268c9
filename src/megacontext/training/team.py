"""Several processes that train one model: each on rows of its own, all with the mean of their gradients.

Started by torchrun, which tells every process who it is; without it a run is a team of one. The kind of a batch is the
same for all at each step, so that nobody waits long; the first process writes checkpoint and log.

    torchrun --nproc-per-node 2 -- recipes/core/train.py --data DATA --out RUN
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from megacontext.errors import InvalidValueError

__all__ = ["ALONE", "Team", "join_team"]

PATIENCE = dt.timedelta(minutes=30)  # preparing token arrays is the longest that others wait for


@dataclass(frozen=True)
class Team:
    """rank: this process, from 0; size: how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replace float32 tensors by their means over all processes: the same bits everywhere."""
        parts = list(tensors)
        if self.size == 1 or not parts:
            return
        flat = torch.cat([part.flatten() for part in parts])
        distributed.all_reduce(flat)
        flat /= self.size
        _fill_(parts, flat)

    def hand_round_(self, parts: Sequence[Sequence[Tensor]]) -> None:
        """Fill the tensors of every process with what that process has in them: ``parts`` has a sequence for each rank,
        of equal shapes everywhere and of one dtype."""
        if self.size == 1:
            return
        for rank, some in enumerate(parts):
            if not some:
                continue
            flat = torch.cat([part.flatten() for part in some])
            distributed.broadcast(flat.view(torch.uint8), src=rank)
            _fill_(some, flat)

    def mean(self, value: float) -> float:
        """The mean of a number over all processes, the same everywhere."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(shared)
        return float(shared) / self.size

    def wait(self) -> None:
        """Until everybody is here."""
        if self.size > 1:
            distributed.barrier()


def _fill_(parts: Iterable[Tensor], flat: Tensor) -> None:
    """Give tensors back what lies in one, one after the other."""
    start = 0
    for part in parts:
        part.copy_(flat[start : start + part.numel()].view_as(part))
        start += part.numel()


ALONE = Team()


def join_team() -> Team:
    """The team that the environment tells of (WORLD_SIZE and RANK, as torchrun sets them), or a team of one.

    Raises InvalidValueError if only part of it is told.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return ALONE
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if not size.isdigit() or size == "0":
        raise InvalidValueError(f"WORLD_SIZE is {size!r}; it is a number of processes: let torchrun set it")
    if missing:
        raise InvalidValueError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set; start several processes with torchrun"
        )
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=PATIENCE)
    return Team(distributed.get_rank(), distributed.get_world_size())
