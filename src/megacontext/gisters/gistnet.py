"""``gistnet``: gists from a net that was taught together with the base, in place of the text they stand for.

The base brings the net (``SupportsLearnedGists``): its vectors mean something only to the model that learned to read
them. A span is encoded by itself, so appends in any pieces give the same gists; its r vectors stand in the middle of
their share of the span, as uncertain as a share is wide.

Shape legend: n nodes, K block_tokens, r gist_width, D embedding width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megacontext.errors import BaseModelError
from megacontext.gisters.source import whole_blocks
from megacontext.ports.base import BaseInfo, BaseSource, SupportsLearnedGists
from megacontext.ports.gister import GistBatch

__all__ = ["LEARNED_GISTER", "GistNetGister", "untaught_shape"]


LEARNED_GISTER = "gistnet"


class GistNetGister:
    """Learned gists. Loads the base model when the first blocks come."""

    name = LEARNED_GISTER
    version = "1"
    context_tokens = 0

    def __init__(self, source: BaseSource, *, block_tokens: int, gist_width: int) -> None:
        if not source.info.gist_net:
            raise BaseModelError(
                f"{source.info.name}: has no learned gists; use a base that was trained with them, "
                "or gister 'extractive' or 'mean'"
            )
        self.block_tokens = block_tokens
        self.window_tokens = block_tokens
        self.gist_width = gist_width
        self.dim = source.info.dim
        self.spread = 12**-0.5 / gist_width
        self.version = f"{GistNetGister.version}-{source.info.gist_net[:12]}"
        self._source = source

    def from_tokens(self, token_ids: npt.NDArray[np.uint32], *, start: int, num_context: int) -> GistBatch:
        """Level-1 gists of whole blocks."""
        ids_nK = whole_blocks(token_ids, start=start, num_context=num_context, block_tokens=self.block_tokens)
        return self._batch(self._net().gists_of_tokens(ids_nK, gist_width=self.gist_width), level=1)

    def from_gists(self, children: GistBatch, *, level: int) -> GistBatch:
        """Gists of ``level`` from those of K x n children."""
        vectors_nKrD = children.vectors.reshape(-1, self.block_tokens, self.gist_width, self.dim)
        return self._batch(self._net().gists_of_gists(vectors_nKrD, level=level), level=level)

    def _net(self) -> SupportsLearnedGists:
        base = self._source.load()
        if not isinstance(base, SupportsLearnedGists):
            raise BaseModelError(
                f"{self._source.info.name}: its adapter cannot make learned gists; use gister 'extractive' or 'mean'"
            )
        return base

    def _batch(self, vectors_nrD: npt.NDArray[np.float16], *, level: int) -> GistBatch:
        """Vectors with their places: the middles of the r equal shares of a span."""
        width = self.block_tokens**level
        centers_r = (np.arange(self.gist_width) + 0.5) * (width / self.gist_width) - 0.5
        offsets = np.broadcast_to(centers_r.astype(np.float32), vectors_nrD.shape[:2])
        return GistBatch(vectors=vectors_nrD, offsets=offsets.copy(), weights=np.ones_like(offsets))


def untaught_shape(info: BaseInfo, *, block_tokens: int, gist_width: int) -> str:
    """A line that says that the base's gists were never taught for such blocks, and what helps; empty where they were,
    or where the base does not say.

    Any shape works, but what a net never saw it hardly tells: nobody should find that out from bad answers.
    """
    if not info.trained_shapes or (block_tokens, gist_width) in info.trained_shapes:
        return ""
    widths: dict[int, list[int]] = {}
    for tokens, width in sorted(info.trained_shapes):
        widths.setdefault(tokens, []).append(width)
    taught = "; ".join(f"{tokens} (gist_width {', '.join(map(str, some))})" for tokens, some in widths.items())
    return (
        f"the gists of {info.name} were never taught for block_tokens {block_tokens} with gist_width {gist_width} and "
        f"may say little; taught were block_tokens {taught}: use one of those, or gister 'extractive'"
    )
