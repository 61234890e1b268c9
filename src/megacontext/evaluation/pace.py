"""How fast this machine runs the base model now, and with how many threads.

More threads are not always faster: where other programs keep cores busy, every step waits for the slowest thread, and
a small model loses more than it gains.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from megacontext.ports.base import Base, SupportsSurprise

__all__ = ["Pace", "best_pace"]

PROBE_ROWS, PROBE_TOKENS = 4, 512


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Threads of torch, and the tokens per second that it reads with them; 0 if the base cannot score tokens."""

    num_threads: int
    tokens_per_second: float


@contextmanager
def best_pace(base: Base) -> Iterator[Pace]:
    """Try one thread and as many as torch has; keep the faster for the block, and put back what was."""
    import torch

    before = torch.get_num_threads()
    try:
        paces = []
        for num_threads in sorted({1, before}):
            torch.set_num_threads(num_threads)
            paces.append(Pace(num_threads=num_threads, tokens_per_second=_tokens_per_second(base)))
        best = max(paces, key=lambda pace: pace.tokens_per_second)
        torch.set_num_threads(best.num_threads)
        yield best
    finally:
        torch.set_num_threads(before)


def _tokens_per_second(base: Base) -> float:
    if not isinstance(base, SupportsSurprise):
        return 0.0
    rows = np.zeros((PROBE_ROWS, PROBE_TOKENS), dtype=np.uint32)
    base.surprise(rows)  # the first pass pays for what is set up once
    began = time.perf_counter()
    base.surprise(rows)
    return rows.size / (time.perf_counter() - began)
