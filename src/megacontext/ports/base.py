"""The language model behind an adapter.

Shape legend: B batch, T new entries, S entries in the cache, N spans, K children of a span, R gist width,
V vocabulary, D embedding width.
Tensors are torch; this module is importable without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from megacontext.ports.text import EmbeddingRows, TextCodec
from megacontext.ports.words import WordsInCommon
from megacontext.values import choice, text, whole_number

if TYPE_CHECKING:
    import torch

__all__ = [
    "Base",
    "BaseDefaults",
    "BaseInfo",
    "BaseSource",
    "LensQuery",
    "ModelCache",
    "SupportsAttentionMass",
    "SupportsBatches",
    "SupportsFootprint",
    "SupportsLearnedGists",
    "SupportsLearnedLens",
    "SupportsPatch",
    "SupportsPlainLogits",
    "SupportsSavedCache",
    "SupportsSurprise",
    "lead_ids",
    "question_ids",
]


@dataclass(frozen=True, kw_only=True)
class BaseDefaults:
    """What suits a base where nobody says otherwise, as measured when it was ported; None: as for any base.

    dtype: its precision where ``auto`` is asked for; block_tokens, gister, gist_width: of new memories;
    budget_entries, positions, sink_tokens: of sessions. Raises InvalidValueError, UnknownNameError.
    """

    dtype: str | None = None
    block_tokens: int | None = None
    gister: str | None = None
    gist_width: int | None = None
    budget_entries: int | None = None
    positions: Literal["window", "timeline"] | None = None
    sink_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None:
            choice("dtype", self.dtype, ("auto", "bfloat16", "float16", "float32"))
        if self.gister is not None:
            text("gister", self.gister)
        if self.positions is not None:
            choice("positions", self.positions, ("timeline", "window"))
        for name, least in (("block_tokens", 8), ("gist_width", 1), ("budget_entries", 1), ("sink_tokens", 0)):
            value = getattr(self, name)
            if value is not None:
                whole_number(name, value, least=least)


@dataclass(frozen=True, kw_only=True)
class BaseInfo:
    """What a memory must know of its base model to refuse another one.

    fingerprint: sha256 over the tokenizer and the input-embedding matrix: equal fingerprints share gists.
    max_positions: the longest window the model was made for, in entries.
    bos_token_id: what every window begins with, where the model was trained so; it is no part of a memory.
    question_before_ids, question_after_ids: what stands around the question's template, control tokens among it.
    learned_positions: how far apart two tokens were in training at most, 0 if nobody knows; a timeline keeps within it.
    """

    name: str
    revision: str
    fingerprint: str
    dim: int
    vocab_size: int
    max_positions: int
    dtype: str
    device: str
    question_template: str  # str.format with {question}
    stop_token_ids: tuple[int, ...]
    positions: Literal["window", "timeline"] = "window"  # how the rows of a window were numbered in training
    learned_positions: int = 0
    gist_net: str = ""  # digest of the learned gister that comes with the model, '' if none does
    has_lens: bool = False  # whether a learned lens comes with it
    bos_token_id: int | None = None
    question_before_ids: tuple[int, ...] = ()
    question_after_ids: tuple[int, ...] = ()
    trained_shapes: tuple[tuple[int, int], ...] = ()  # (block_tokens, gist_width) that gister was taught with, if known
    defaults: BaseDefaults = field(default_factory=BaseDefaults)
    is_remote: bool = False  # whether a server answers (SupportsCompletion), so that there are no logits and no cache
    reads_text: bool = False  # whether rows spell tokens (TextRows) instead of being embeddings: gists are text then
    answer_stops: tuple[str, ...] = ("\n",)  # texts that end an answer to a question


def lead_ids(info: BaseInfo) -> npt.NDArray[np.uint32]:
    """What stands before the history in every window of a base, uint32 [0 or 1]. It is no part of a memory."""
    return np.array([] if info.bos_token_id is None else [info.bos_token_id], dtype=np.uint32)


def question_ids(info: BaseInfo, codec: TextCodec, question: str) -> npt.NDArray[np.uint32]:
    """A question as the base was taught to be asked, uint32. What frames it may hold control tokens, the question's own
    text never does."""
    token_ids = codec.encode(info.question_template.format(question=question)).token_ids
    before, after = (np.array(ids, dtype=np.uint32) for ids in (info.question_before_ids, info.question_after_ids))
    return np.concatenate([before, token_ids, after])


class ModelCache(Protocol):
    """Key-value state of one window. Entries are counted as they stand in the window, wherever they lie in memory."""

    num_entries: int

    def truncate(self, num_entries: int) -> None:
        """Forget everything from entry ``num_entries`` on."""
        ...


@runtime_checkable
class Base(Protocol):
    """Runs embeddings at explicit positions through a model that keeps a cache."""

    info: BaseInfo
    codec: TextCodec

    def embed(self, token_ids: npt.NDArray[np.uint32]) -> torch.Tensor:
        """Input embeddings [T, D] in the model's dtype, on its device."""
        ...

    def new_cache(self, capacity_entries: int) -> ModelCache: ...

    def forward(
        self,
        inputs_TD: torch.Tensor,
        positions_T: npt.NDArray[np.float64],
        cache: ModelCache,
        *,
        spreads_T: npt.NDArray[np.float32] | None = None,
        num_logits: int = 1,
    ) -> torch.Tensor:
        """Append T entries to the cache; float32 logits [num_logits, V] of the last ``num_logits`` entries.

        spreads_T: standard deviations of the positions, 0 (or None for all) where an entry stands at one place. A base
        whose positions are certain passes over them.
        """
        ...


@runtime_checkable
class BaseSource(Protocol):
    """A base of which only as much is read as somebody asks for: facts, tokenizer and embedding table come from small
    files."""

    @property
    def info(self) -> BaseInfo: ...

    @property
    def codec(self) -> TextCodec: ...

    @property
    def embeddings(self) -> EmbeddingRows: ...

    def load(self) -> Base:
        """The model itself; the first call may take seconds."""
        ...


@runtime_checkable
class SupportsPatch(Protocol):
    """Entries that run at any place of the window, not only at its end: a refocus costs its edits, not the window.

    Attention with explicit positions does not care where in a cache a key lies, so entries may come and go in the
    middle. What others had read of an entry that is gone stays in them: whoever patches bounds that.
    """

    @property
    def can_patch(self) -> bool:
        """Whether this model's keys can be moved to other positions."""
        ...

    def patch(
        self,
        inputs_TD: torch.Tensor,
        positions_T: npt.NDArray[np.float64],
        cache: ModelCache,
        *,
        kept_n: npt.NDArray[np.int64],
        moved_n: npt.NDArray[np.float64],
        places_T: npt.NDArray[np.int64],
        spreads_T: npt.NDArray[np.float32] | None = None,
        num_logits: int = 1,
    ) -> torch.Tensor:
        """Forget entries, move others, and run T new ones among them; float32 logits [num_logits, V] of the last of
        the new ones.

        kept_n: places in the window of the entries that stay, ascending; moved_n: by how many positions each of them
        moves on; places_T: where in the new window the new ones stand, ascending. Those that stay fill the other
        places, in their order. A new entry looks at those before it and at itself. A patch that fails leaves the cache
        empty.
        """
        ...

    def values_of(self, cache: ModelCache, places_n: npt.NDArray[np.int64]) -> torch.Tensor:
        """What others read of entries in the last layer, float32 [n, ...]: how far an entry is from what it would be if
        it ran now shows there the most."""
        ...


@runtime_checkable
class SupportsFootprint(Protocol):
    """A model that knows what it takes of the memory it runs in."""

    @property
    def weight_bytes(self) -> int: ...

    @property
    def entry_bytes(self) -> int:
        """What a window keeps of each of its entries."""
        ...


@runtime_checkable
class SupportsPlainLogits(Protocol):
    """A model that has another implementation, which knows nothing of ours: what ours is compared with."""

    def plain_logits(self, token_ids_T: npt.NDArray[np.uint32]) -> torch.Tensor:
        """Float32 logits [T, V] of tokens numbered 0, 1, 2 ..., by that implementation. Not beside other threads."""
        ...


@runtime_checkable
class SupportsBatches(Protocol):
    """Sessions that step together: a model's weights are read once for all of them."""

    def decode_batch(
        self, inputs_BD: torch.Tensor, positions_B: npt.NDArray[np.float64], caches: Sequence[ModelCache]
    ) -> torch.Tensor:
        """Append one entry to each of several caches, which may be of any lengths; float32 logits [B, V]. A batch that
        fails leaves all of them as they were."""
        ...


@runtime_checkable
class SupportsSavedCache(Protocol):
    """Caches that outlive their process: a session goes on from a file, bit for bit."""

    def cache_state(self, cache: ModelCache) -> dict[str, torch.Tensor]:
        """All that is in a cache, by name, on the CPU."""
        ...

    def cache_from(self, state: dict[str, torch.Tensor], capacity_entries: int) -> ModelCache:
        """The cache that a state was taken of; InvalidValueError if it is none of this model's."""
        ...


@runtime_checkable
class SupportsSurprise(Protocol):
    """Batched negative log-likelihood of raw tokens: what training-free gists choose by."""

    def surprise(self, token_ids_BT: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
        """Nats [B, T] of each token given those before it in its row; the first of a row is log(V), or what it costs
        behind the token that begins every text, where the base has one."""
        ...


@runtime_checkable
class SupportsAttentionMass(Protocol):
    """How much the last entries look at each earlier one: a training-free lens."""

    def attention_mass(self, cache: ModelCache, *, num_queries: int) -> npt.NDArray[np.float32]:
        """Attention [num_entries] that the last ``num_queries`` entries of the cache give to each entry at one
        middle layer, max over heads and queries (facts: never the mean over layers)."""
        ...


@runtime_checkable
class SupportsLearnedGists(Protocol):
    """Gists from a net that was taught together with the model. N spans of K children, r vectors per gist."""

    def gists_of_tokens(self, token_ids_NK: npt.NDArray[np.uint32], *, gist_width: int) -> npt.NDArray[np.float16]:
        """Gists [N, r, D] of spans of tokens; a span's gist depends on its own tokens alone."""
        ...

    def gists_of_gists(self, vectors_NKRD: npt.NDArray[np.float16], *, level: int) -> npt.NDArray[np.float16]:
        """Gists [N, r, D] of ``level`` (>= 2) from those of the level below."""
        ...


class LensQuery(Protocol):
    """What the last entries of a window ask of a learned lens. F features of each span, as the net names them.

    stakes: how much speaks for nothing being needed, a logit like those of spans; and the nats [L] that opening the
    span that is needed would save, by the level of the gist that stands for it: 1, 2, ..., L and above.
    """

    @property
    def stakes(self) -> tuple[float, npt.NDArray[np.float32]]: ...

    def evidence(
        self,
        keys_nr: torch.Tensor,
        features_nF: npt.NDArray[np.float32],
        words: WordsInCommon | None = None,
    ) -> npt.NDArray[np.float32]:
        """How much speaks for spans anywhere in the memory [n], as logits.

        keys_nr: as ``lens_keys`` gives them; words: what they have in common with the query, where that is known.
        """
        ...


@runtime_checkable
class SupportsLearnedLens(Protocol):
    """Which spans hold what the next tokens need, by a net that was taught together with the model.

    ``lens_query_tokens`` is how many query tokens the net was taught with.
    """

    lens_features: tuple[str, ...]
    lens_query_tokens: int

    def lens_keys(self, vectors_nrD: npt.NDArray[np.float16]) -> torch.Tensor:
        """What the lens compares of n gists as stored, [n, r, ...]. It depends on nothing else, so it may be kept."""
        ...

    def lens_query(self, cache: ModelCache, *, num_queries: int) -> LensQuery:
        """Ask with the last ``num_queries`` entries of the cache, as it is now."""
        ...
