"""GistNet over many spans: slices of a fixed size, one processor thread each.

A slice is little work for a matrix product, so two threads on one slice wait for each other more than they help, most
of all when they are not the main thread's. Two slices on a thread each share nothing: 1.2 times as fast as both threads
on each slice in the main thread, 1.8 times in another one. The threads end with the call: while more of them live than
there are processors, OpenMP no longer lets any wait busily, and a decode step elsewhere takes twice its time. A single
slice stays where it is: half the wait, and the same bits (128 of 128 slices, one thread against two).

A gist must not depend on which others are asked for with it, and a processor may choose its kernels by the number of
rows. So slices always hold as many spans; where many are asked for, twice as many, which is up to 1.3 times as fast,
if the first of them come out the same to the bit either way.

Shape legend: N spans, K vectors per span, r gist width, D embedding width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Lock

import numpy as np
import numpy.typing as npt
import torch

from megacontext.nets.gist_net import GistNet

__all__ = ["GistEncoder"]

SLICE_SPANS = 16  # encoded at once
LARGE_SPANS = 2 * SLICE_SPANS  # where more are asked for, and it is the same to the bit

_one_at_a_time = Lock()  # callers: each keeps all processors busy


class GistEncoder:
    """A net in evaluation mode, whose gists are the same whoever else is encoded with them. Safe for threads."""

    def __init__(self, net: GistNet) -> None:
        self._net = net
        self._agrees: dict[tuple[int, ...], bool] = {}

    def encode(
        self, vectors_NKD: torch.Tensor, *, level: int, num_children: int, gist_width: int
    ) -> npt.NDArray[np.float16]:
        """Gists [N, r, D] on the CPU; arguments as ``GistNet``."""
        num_spans, _, dim = vectors_NKD.shape
        gists_NRD = np.empty((num_spans, gist_width, dim), dtype=np.float16)

        def make(first: int, size: int) -> None:
            part = vectors_NKD[first : first + size]
            num_taken = len(part)
            part = torch.nn.functional.pad(part, (0, 0, 0, 0, 0, size - num_taken))
            with torch.inference_mode():
                made = self._net(part, level=level, num_children=num_children, gist_width=gist_width)
            gists_NRD[first : first + num_taken] = made[:num_taken].to(torch.float16).cpu().numpy()

        size = SLICE_SPANS
        if num_spans > SLICE_SPANS and vectors_NKD.device.type == "cpu":
            shape = (vectors_NKD.shape[1], level, num_children, gist_width)
            if shape not in self._agrees:
                self._agrees[shape] = _agree(make, gists_NRD[:LARGE_SPANS])
            size = LARGE_SPANS if self._agrees[shape] else SLICE_SPANS
        slices = range(0, num_spans, size)
        if len(slices) <= 1 or vectors_NKD.device.type != "cpu" or torch.get_num_threads() == 1:
            for first in slices:
                make(first, size)
        else:
            with _one_at_a_time, _workers(most=len(slices)) as pool:
                for _ in pool.map(make, slices, itertools.repeat(size)):
                    pass  # an error of a slice is raised here
        return gists_NRD


def _agree(make: Callable[[int, int], None], gists_NRD: npt.NDArray[np.float16]) -> bool:
    """Whether the first gists come out the same to the bit from one large slice and from small ones.
    make: fills in those from a span on, in a slice of a size."""
    make(0, LARGE_SPANS)
    at_once = gists_NRD.tobytes()
    for first in range(0, len(gists_NRD), SLICE_SPANS):
        make(first, SLICE_SPANS)
    return gists_NRD.tobytes() == at_once


@contextmanager
def _workers(*, most: int) -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch uses, each of which runs what it is given by itself."""
    num_threads = torch.get_num_threads()
    num_workers = min(num_threads, most)
    started = Barrier(num_workers)

    def start() -> None:
        torch.set_num_threads(1)  # of this thread, and of all that begin later, until it is set again
        started.wait()

    with ThreadPoolExecutor(num_workers, thread_name_prefix="gist") as pool:
        for starting in [pool.submit(start) for _ in range(num_workers)]:
            starting.result()
        torch.set_num_threads(num_threads)
        yield pool
