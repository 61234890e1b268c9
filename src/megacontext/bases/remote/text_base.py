"""``openai:MODEL@URL``: any model behind an OpenAI-compatible API, over a memory whose gists are text.

The memory's tokens are those of a tokenizer that is at hand (the bundled one, or any that is named). A window's rows
spell them, so storage, lenses, allocators and saved sessions work as they are; only here do rows become text again. The
model's own tokens count where its window is concerned (``server_facts``).

Shape legend: T rows, D = 3 numbers of a row.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from megacontext.bases.prompting import DEFAULT_QUESTION_TEMPLATE
from megacontext.bases.registry import BUNDLED, BaseHandle, load_codec
from megacontext.bases.remote.address import ApiAddress
from megacontext.bases.remote.answers import answer_pieces
from megacontext.bases.remote.api_key import ApiKey
from megacontext.bases.remote.http import ApiClient, Patience
from megacontext.bases.remote.rendering import chat_messages, completion_prompt, history_text
from megacontext.bases.remote.requests import Asker
from megacontext.bases.remote.server_facts import ServerFacts, TokenMeter
from megacontext.bases.remote.summaries import Summariser
from megacontext.bases.remote.text_rows import MOST_IDS, ROW_WIDTH, DigitRows
from megacontext.errors import BaseModelError, PromptTooLongError
from megacontext.ports.base import BaseInfo
from megacontext.ports.completion import CompletionPiece, CompletionRequest, PromptSize
from megacontext.ports.text import TextCodec

if TYPE_CHECKING:
    import torch

__all__ = ["MOST_POSITIONS", "OpenAIHandle", "TextBase", "no_logits"]

# The server's limit is the one that counts; asking for it costs a request, and looking at a memory none.
MOST_POSITIONS = 1 << 24
# Of a window whose limit nobody told, so much is left when a prompt was refused without a number.
SMALLER = 0.75


class OpenAIHandle:
    """A model behind an API as a source of bases: ``info`` and ``codec`` need no server.

    address: ``openai:MODEL@URL`` or what ``ApiAddress.parse`` made of it; key: None where the server wants none.
    Raises: what ``ApiAddress.parse`` and reading the tokenizer raise.
    """

    def __init__(
        self, address: ApiAddress | str, *, key: ApiKey | None = None, patience: Patience | None = None
    ) -> None:
        address = ApiAddress.parse(address) if isinstance(address, str) else address
        if address.tokenizer not in BUNDLED:  # a folder by its whole name: the memory is opened from other ones, too
            address = replace(address, tokenizer=BaseHandle(address.tokenizer).name)
        self.address = address
        self.name = address.name
        self._key, self._patience = key, patience
        self._loading = threading.Lock()
        self._loaded: TextBase | None = None

    @functools.cached_property
    def codec(self) -> TextCodec:
        """The tokenizer whose tokens the memory holds."""
        codec = load_codec(self.address.tokenizer)
        if codec.vocab_size > MOST_IDS:
            raise BaseModelError(
                f"the tokenizer {self.address.tokenizer} has {codec.vocab_size} ids, text memories take {MOST_IDS}; "
                "choose another with #tokenizer="
            )
        return codec

    @functools.cached_property
    def embeddings(self) -> DigitRows:
        """Ids as rows of numbers."""
        return DigitRows(self.codec.vocab_size)

    @functools.cached_property
    def info(self) -> BaseInfo:
        """The fingerprint is that of the tokenizer: any model may answer over the same text."""
        return BaseInfo(
            name=self.name,
            revision="api",
            fingerprint=hashlib.sha256(f"text rows 1 {self.codec.fingerprint}".encode()).hexdigest(),
            dim=ROW_WIDTH,
            vocab_size=self.codec.vocab_size,
            max_positions=MOST_POSITIONS,
            dtype="float32",
            device="cpu",
            question_template=DEFAULT_QUESTION_TEMPLATE,
            stop_token_ids=(),
            is_remote=True,
            reads_text=True,
            answer_stops=() if self.address.api == "chat" else ("\n",),
        )

    def load(self) -> TextBase:
        """The base; nothing is asked of the server yet."""
        with self._loading:
            if self._loaded is None:
                client = ApiClient(self.address, self._key, self._patience)
                self._loaded = TextBase(client, self.codec, self.info, self.embeddings)
            return self._loaded


class TextBase:
    """Turns windows into prompts, and answers into pieces. ``SupportsCompletion``, ``SupportsSummaries``."""

    def __init__(self, client: ApiClient, codec: TextCodec, info: BaseInfo, rows: DigitRows) -> None:
        self.info = info
        self.codec = codec
        self._rows = rows
        self._address, self._key = client.address, client.key
        self._facts = ServerFacts(client)
        self._meter = TokenMeter(self._facts, codec)
        self._is_chat = client.address.api == "chat"
        self._asker = Asker(client, "chat/completions" if self._is_chat else "completions")
        self._summariser = Summariser(self._asker, client, codec)

    def embed(self, token_ids: npt.NDArray[np.uint32]) -> torch.Tensor:
        """Rows [T, D], float32 on the CPU."""
        import torch

        return torch.from_numpy(self._rows.rows(np.asarray(token_ids)))

    def new_cache(self, capacity_entries: int) -> NoReturn:
        """BaseModelError: there is none."""
        raise no_logits(self.info)

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """BaseModelError: the server shows no logits."""
        raise no_logits(self.info)

    @property
    def can_continue(self) -> bool:
        """A chat turn cannot be gone on with; a text can."""
        return not self._is_chat

    def prompt_size(self, request: CompletionRequest) -> PromptSize:
        """What the prompt takes of the server's window."""
        return PromptSize(
            num_tokens=self._meter.count(self._whole_prompt(request)), window_tokens=self._facts.window_tokens
        )

    def complete(self, request: CompletionRequest) -> Iterator[CompletionPiece]:
        """Stream the answer of the server."""
        whole = self._whole_prompt(request)
        events = self._asker.stream(request, self._prompt(request))
        try:
            yield from answer_pieces(
                events,
                self._address.host,
                key=self._key,
                max_new_tokens=request.max_new_tokens,
                on_usage=lambda num_tokens: self._meter.learn(whole, num_tokens),
            )
        except PromptTooLongError as error:
            if error.prompt_tokens:
                self._meter.learn(whole, error.prompt_tokens)
            counted = self._meter.count(whole) + request.max_new_tokens
            self._facts.learn_window(error.window_tokens or int(SMALLER * counted))
            raise

    def summarise(self, texts: Sequence[str], *, num_tokens: int) -> list[str]:
        """A summary of each text by the model itself."""
        return self._summariser.of(texts, num_tokens=num_tokens)

    def _prompt(self, request: CompletionRequest) -> dict[str, Any]:
        history = history_text(request.history_TD.numpy(), self.codec)
        if self._is_chat:
            return {"messages": chat_messages(history, question=request.question, prompt=request.prompt)}
        return {"prompt": completion_prompt(history, prompt=request.prompt, answer=request.answer)}

    def _whole_prompt(self, request: CompletionRequest) -> str:
        """All that the model reads, as one text to count."""
        prompt = self._prompt(request)
        if "prompt" in prompt:
            return str(prompt["prompt"])
        return "\n".join(message["content"] for message in prompt["messages"])


def no_logits(info: BaseInfo) -> BaseModelError:
    """What is said where the model itself would have to be looked into."""
    return BaseModelError(
        f"{info.name} writes answers and shows no logits, so nothing can be scored or looked into; use a base that "
        "runs on this machine for that"
    )
