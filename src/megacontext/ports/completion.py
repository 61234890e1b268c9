"""Models that write answers by themselves: a server reads the window and streams text back.

Such a base has no logits and no cache to show. A session gives it a window and gets text.

Shape legend: T rows of the window's history, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["CompletionPiece", "CompletionRequest", "PromptSize", "SupportsCompletion", "SupportsSummaries"]


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    """history_TD: the cut's rows, as ``embed`` and the gister make them; prompt: what stands after them as text, and
    ``question`` the same before any template ('' to go on with the text as it is); answer: what of the answer was
    written before, which is to be continued; scratch: token ids of prompt and answer. max_new_tokens: of the server's
    own. The rest: how tokens are drawn."""

    history_TD: torch.Tensor  # noqa: N815 - shape suffix
    prompt: str
    question: str
    answer: str
    scratch: npt.NDArray[np.uint32]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class PromptSize:
    """In the server's tokens: num_tokens of the prompt, rather too many than too few; window_tokens: most of prompt and
    answer together, 0 where nobody knows."""

    num_tokens: int
    window_tokens: int


@dataclass(frozen=True, kw_only=True)
class CompletionPiece:
    """text: what came; reason: ``stop`` or ``length`` with the last piece, '' before."""

    text: str
    reason: str = ""


@runtime_checkable
class SupportsCompletion(Protocol):
    """A base that writes by itself. ``can_continue``: whether it goes on with an answer in another window."""

    @property
    def can_continue(self) -> bool: ...

    def prompt_size(self, request: CompletionRequest) -> PromptSize:
        """What a request would take of the window. ServerError where the server does not answer."""
        ...

    def complete(self, request: CompletionRequest) -> Iterator[CompletionPiece]:
        """Stream the answer; closing the iterator ends it. Raises: ServerError; PromptTooLongError before the first
        piece, after which ``prompt_size`` knows better."""
        ...


@runtime_checkable
class SupportsSummaries(Protocol):
    """A base that summarises texts: what the gister ``summary`` asks."""

    def summarise(self, texts: Sequence[str], *, num_tokens: int) -> list[str]:
        """A summary of each text, of about ``num_tokens`` tokens of the memory's tokenizer at most. ServerError if one
        of them fails; those before it are remembered and not asked for again."""
        ...
