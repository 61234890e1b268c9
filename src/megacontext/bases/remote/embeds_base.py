"""``vllm:MODEL@URL``: vectors over the wire, so that learned gists run on a stock serving engine.

MODEL is a folder or a Hugging Face id whose tokenizer and embeddings are at hand; the server runs the same weights. The
window goes as ``prompt_embeds`` in the body of /v1/completions: base64 of what ``torch.save`` writes of a tensor
[T, D], T rows of the window and the D of the model's embeddings. vLLM takes it when it was started with
``--enable-prompt-embeds`` (https://docs.vllm.ai/en/latest/features/prompt_embeds/), reads it with
``torch.load(weights_only=True)``, wants floating point and numbers the rows 0, 1, 2 ...; no chat template is applied.
It puts no BOS in front either, so that the model's own is sent as the first row. The fingerprint is that of the model
run here, so that one memory serves both.

Shape legend: T rows, D embedding width.
"""

from __future__ import annotations

import base64
import functools
import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from megacontext.bases.registry import BaseHandle
from megacontext.bases.remote.address import ApiAddress
from megacontext.bases.remote.answers import answer_pieces
from megacontext.bases.remote.api_key import ApiKey
from megacontext.bases.remote.http import ApiClient, Patience
from megacontext.bases.remote.requests import Asker
from megacontext.bases.remote.server_facts import ServerFacts
from megacontext.bases.remote.text_base import no_logits
from megacontext.errors import BaseModelError, InvalidTokensError, PromptTooLongError, ServerError
from megacontext.ports.base import Base, BaseInfo, SupportsLearnedGists, SupportsSurprise, lead_ids
from megacontext.ports.completion import CompletionPiece, CompletionRequest, PromptSize
from megacontext.ports.text import EmbeddingRows, TextCodec

if TYPE_CHECKING:
    import torch


__all__ = ["EmbedsBase", "VllmHandle", "encoded_embeds"]

# What vLLM takes; a model whose config says something else is sent in float32.
WIRE_DTYPES = ("bfloat16", "float16", "float32")


class VllmHandle:
    """A model behind vLLM as a source of bases. Only small files and the embedding matrix are read here, and the model
    itself where new gists have to be made with it.

    Raises: what ``ApiAddress.parse`` and ``BaseHandle`` raise.
    """

    def __init__(
        self,
        address: ApiAddress | str,
        *,
        key: ApiKey | None = None,
        patience: Patience | None = None,
        dtype: str = "auto",
        device: str = "auto",
    ) -> None:
        address = ApiAddress.parse(address) if isinstance(address, str) else address
        self._local = BaseHandle(address.model, dtype=dtype, device=device)
        if self._local.revision == "local":  # the memory is opened from other folders, too
            address = replace(address, model=self._local.name, served=address.served_model)
        self.address = address
        self.name = address.name
        self._key, self._patience = key, patience
        self._loading = threading.Lock()
        self._loaded: EmbedsBase | None = None

    @property
    def codec(self) -> TextCodec:
        return self._local.codec

    @property
    def embeddings(self) -> EmbeddingRows:
        return self._local.embeddings

    @functools.cached_property
    def info(self) -> BaseInfo:
        """As that of the model run here, but for who answers: rows are numbered in order, and no lens looks inside."""
        return replace(
            self._local.info,
            name=self.name,
            positions="window",
            learned_positions=0,
            has_lens=False,
            dtype="float32",
            device="cpu",
            is_remote=True,
        )

    def load(self) -> EmbedsBase:
        """The base; nothing is asked of the server yet, and no model is loaded."""
        with self._loading:
            if self._loaded is None:
                client = ApiClient(self.address, self._key, self._patience)
                dtype = str(self._local.config.get("dtype") or self._local.config.get("torch_dtype"))
                self._loaded = EmbedsBase(client, self._local, self.info, wire_dtype=dtype.removeprefix("torch."))
            return self._loaded


class EmbedsBase:
    """Windows as ``prompt_embeds``. ``SupportsCompletion``; gists are made by the model's own folder."""

    can_continue = True

    def __init__(self, client: ApiClient, local: BaseHandle, info: BaseInfo, *, wire_dtype: str) -> None:
        self.info = info
        self.codec: TextCodec = local.codec
        self._local = local
        self._host, self._key = client.address.host, client.key
        self._lead_ids = lead_ids(info)
        self._wire_dtype = wire_dtype if wire_dtype in WIRE_DTYPES else "float32"
        self._facts = ServerFacts(client)
        self._asker = Asker(client, "completions")

    def embed(self, token_ids: npt.NDArray[np.uint32]) -> torch.Tensor:
        """Input embeddings [T, D], float32 on the CPU."""
        import torch

        token_ids = np.asarray(token_ids)
        limit = self.info.vocab_size
        if token_ids.ndim != 1 or token_ids.dtype.kind not in "ui" or (token_ids.size and token_ids.max() >= limit):
            raise InvalidTokensError(f"token ids are no flat array of integers from 0 to {limit - 1}")
        return torch.from_numpy(self._local.embeddings.rows(token_ids))

    def new_cache(self, capacity_entries: int) -> NoReturn:
        """BaseModelError: there is none."""
        raise no_logits(self.info)

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """BaseModelError: the server shows no logits."""
        raise no_logits(self.info)

    def prompt_size(self, request: CompletionRequest) -> PromptSize:
        """Rows are the server's tokens, the model's BOS among them."""
        num_rows = len(self._lead_ids) + len(request.history_TD) + len(request.scratch)
        return PromptSize(num_tokens=num_rows, window_tokens=self._facts.window_tokens)

    def complete(self, request: CompletionRequest) -> Iterator[CompletionPiece]:
        """Stream the answer of the server."""
        import torch

        rows_TD = torch.cat([self.embed(self._lead_ids), request.history_TD, self.embed(request.scratch)])
        embeds = encoded_embeds(rows_TD.to(getattr(torch, self._wire_dtype)))
        events = self._asker.stream(request, {"prompt": "", "prompt_embeds": embeds})
        try:
            yield from answer_pieces(
                events,
                self._host,
                key=self._key,
                max_new_tokens=request.max_new_tokens,
                on_usage=lambda num_tokens: None,
            )
        except PromptTooLongError as error:
            self._facts.learn_window(error.window_tokens or len(rows_TD) + request.max_new_tokens - 1)
            raise
        except ServerError as error:
            if "enable-prompt-embeds" in str(error) or "enable_prompt_embeds" in str(error):
                raise ServerError(
                    f"{self._host} takes no vectors; start vLLM with --enable-prompt-embeds, or use openai: with "
                    "a memory of its own"
                ) from error
            raise

    def surprise(self, token_ids_BT: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
        """``SupportsSurprise``, by the model's folder."""
        base = self._model()
        if not isinstance(base, SupportsSurprise):
            raise BaseModelError(f"{base.info.name} cannot score tokens; use gister 'mean'")
        return base.surprise(token_ids_BT)

    def gists_of_tokens(self, token_ids_NK: npt.NDArray[np.uint32], *, gist_width: int) -> npt.NDArray[np.float16]:
        """``SupportsLearnedGists``, by the model's folder."""
        return self._gist_maker().gists_of_tokens(token_ids_NK, gist_width=gist_width)

    def gists_of_gists(self, vectors_NKRD: npt.NDArray[np.float16], *, level: int) -> npt.NDArray[np.float16]:
        """``SupportsLearnedGists``, by the model's folder."""
        return self._gist_maker().gists_of_gists(vectors_NKRD, level=level)

    def _gist_maker(self) -> SupportsLearnedGists:
        base = self._model()
        if not isinstance(base, SupportsLearnedGists):
            raise BaseModelError(f"{base.info.name} has no learned gists; use gister 'extractive' or 'mean'")
        return base

    def _model(self) -> Base:
        return self._local.load()


def encoded_embeds(rows_TD: torch.Tensor) -> str:
    """Rows [T, D] as vLLM reads them: base64 of what ``torch.save`` writes."""
    import torch

    buffer = io.BytesIO()
    torch.save(rows_TD.clone(), buffer)  # of a view, all that it is a view of would be saved
    return base64.b64encode(buffer.getvalue()).decode("ascii")
