"""``summary``: what the model itself writes about a span, where the user wants to pay for it.

Only for bases that read text and summarise (``SupportsSummaries``), and only when it is asked for by name: each node
costs a call. A gist is kept like every other, so a node is summarised once; where a call fails the node stays without
a gist, and the next try goes on from there. Summaries of upper levels are made of those below.

A model need not say the same twice, so that building again gives other gists of the same text: they are kept with the
memory, and never compared with fresh ones bit for bit.

Shape legend: n nodes, K block_tokens, r gist_width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megacontext.errors import BaseModelError, InvalidValueError
from megacontext.gisters.source import whole_blocks
from megacontext.ports.base import BaseSource
from megacontext.ports.completion import SupportsSummaries
from megacontext.ports.gister import GistBatch
from megacontext.ports.text import RowMark, TextRows

__all__ = ["LEAST_WIDTH", "SummaryGister"]

LEAST_WIDTH = 8  # fewer tokens say nothing in words
NODES_AT_ONCE = 16  # nodes between two commits: what a failure may cost


class SummaryGister:
    """Asks the base for summaries of at most r tokens."""

    name = "summary"
    version = "1"
    context_tokens = 0
    nodes_at_once = NODES_AT_ONCE

    def __init__(self, source: BaseSource, *, block_tokens: int, gist_width: int) -> None:
        if not source.info.reads_text:
            raise InvalidValueError(
                f"gister 'summary' writes text, and {source.info.name} reads vectors; use it with a model behind an "
                "API (openai:MODEL@URL), or gister 'extractive' or 'mean'"
            )
        if gist_width < LEAST_WIDTH:
            raise InvalidValueError(
                f"gist_width is {gist_width}, too few tokens for a summary; choose at least {LEAST_WIDTH}, and "
                "block_tokens above it"
            )
        self.block_tokens = block_tokens
        self.window_tokens = block_tokens
        self.gist_width = gist_width
        self.dim = source.info.dim
        self.spread = 12**-0.5 / gist_width
        self._source = source

    def from_tokens(self, token_ids: npt.NDArray[np.uint32], *, start: int, num_context: int) -> GistBatch:
        """Level-1 gists of whole blocks. ServerError where a call fails."""
        ids_nK = whole_blocks(token_ids, start=start, num_context=num_context, block_tokens=self.block_tokens)
        return self._summaries([self._source.codec.decode(ids_K) for ids_K in ids_nK], level=1)

    def from_gists(self, children: GistBatch, *, level: int) -> GistBatch:
        """Gists of ``level`` from the summaries of K x n children."""
        texts = [self._text(vectors_rD) for vectors_rD in children.vectors]
        joined = ["\n".join(texts[at : at + self.block_tokens]) for at in range(0, len(texts), self.block_tokens)]
        return self._summaries(joined, level=level)

    def _summaries(self, texts: list[str], *, level: int) -> GistBatch:
        ids_nr = np.zeros((len(texts), self.gist_width), dtype=np.uint32)
        marks_nr = np.full(ids_nr.shape, RowMark.EMPTY)
        for row, summary in enumerate(self._written(texts)):
            token_ids = self._source.codec.encode(summary).token_ids[: self.gist_width]
            ids_nr[row, : len(token_ids)] = token_ids
            marks_nr[row, : len(token_ids)] = RowMark.GOES_ON
            marks_nr[row, :1] = RowMark.BEGINS if len(token_ids) else RowMark.EMPTY
        share = self.block_tokens**level / self.gist_width
        middles_r = ((np.arange(self.gist_width) + 0.5) * share - 0.5).astype(np.float32)
        return GistBatch(
            vectors=self._rows().marked(ids_nr, marks_nr).astype(np.float16),
            offsets=np.tile(middles_r, (len(texts), 1)),
            weights=np.ones(ids_nr.shape, dtype=np.float32),
        )

    def _written(self, texts: list[str]) -> list[str]:
        """Summaries of texts; one that is blank, or as short as a summary, is its own."""
        codec = self._source.codec
        is_short = [not text.strip() or len(codec.encode(text).token_ids) <= self.gist_width for text in texts]
        asked = [text for text, short in zip(texts, is_short, strict=True) if not short]
        if not asked:
            return texts
        base = self._source.load()
        if not isinstance(base, SupportsSummaries):
            raise BaseModelError(f"{base.info.name} cannot summarise; use gister 'sentences'")
        made = iter(base.summarise(asked, num_tokens=self.gist_width))
        return [text if short else next(made) for text, short in zip(texts, is_short, strict=True)]

    def _text(self, vectors_rD: npt.NDArray[np.float16]) -> str:
        ids, marks = self._rows().read(vectors_rD)
        return self._source.codec.decode(ids[marks != RowMark.EMPTY])

    def _rows(self) -> TextRows:
        rows = self._source.embeddings
        if not isinstance(rows, TextRows):
            raise BaseModelError(
                f"{self._source.info.name} reads text, but its rows spell none; add what TextRows asks for"
            )
        return rows
