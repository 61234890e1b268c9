"""A small OpenAI-compatible server over a model that runs here: real HTTP, real tokens, and failures on demand.

    GET  /v1/models            the model, with ``max_model_len`` as vLLM tells it
    GET  /props                ``n_ctx`` as llama.cpp tells it
    POST /tokenize             the ids of a ``prompt`` (vLLM) or a ``content`` (llama.cpp)
    POST /v1/completions       text, or ``prompt_embeds`` read as vLLM reads them; at once or as a stream
    POST /v1/chat/completions  messages through a plain template; at once or as a stream

It is for tests of whoever talks to such servers: one thread per connection, one model, greedy or sampled.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch

from megacontext.bases.detokenize import Detokenizer
from megacontext.bases.registry import load_base
from megacontext.ports.base import Base
from megacontext.runtime.sampling import Sampler, SamplingConfig
from megacontext.testing.prompt_embeds import decoded_embeds

__all__ = ["Failure", "OpenAIServer", "Seen", "plain_chat"]

Style = Literal["vllm", "llama.cpp", "openai"]
MOST_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What happens to one request instead of an answer.

    status, body, headers: a refusal (body: text, or what becomes JSON); hang_s: silence, before anything or, with
    ``after_tokens``, in the middle of the stream; after_tokens: break the connection after so many; event: an event
    that is sent there first; page: only requests whose path ends so.
    """

    status: int = 0
    body: Any = "the server failed"
    headers: Sequence[tuple[str, str]] = ()
    hang_s: float = 0.0
    after_tokens: int | None = None
    event: Any = None
    page: str = "completions"


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any] = field(default_factory=dict)


def plain_chat(messages: Sequence[dict[str, str]]) -> str:
    """Contents one after another, and the beginning of an answer."""
    return "\n".join(message["content"] for message in messages) + "\nAnswer:"


class OpenAIServer:
    """Serves while it is open: ``with OpenAIServer() as server: server.url``.

    base: the model, ``reference`` by default; model: what it is called; api_key: what requests must carry; style: what
    is told beside OpenAI's API, and how a prompt that is too long is refused; context_tokens: of the window;
    takes_embeds: as vLLM with --enable-prompt-embeds; chat_template: messages to text; failures: taken one by one.
    """

    def __init__(
        self,
        base: Base | None = None,
        *,
        model: str = "reference",
        api_key: str = "",
        style: Style = "vllm",
        context_tokens: int = 2048,
        takes_embeds: bool = True,
        chat_template: Callable[[Sequence[dict[str, str]]], str] = plain_chat,
    ) -> None:
        self.base = base or load_base("reference")
        self.model, self.api_key, self.style = model, api_key, style
        self.context_tokens, self.takes_embeds = context_tokens, takes_embeds
        self.chat_template = chat_template
        self.failures: deque[Failure] = deque()
        self.seen: list[Seen] = []
        self.is_closing = threading.Event()
        self._model_lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="server", daemon=True)

    @property
    def url(self) -> str:
        """Of the API, such as ``http://127.0.0.1:40123/v1``."""
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def asked(self, page: str) -> list[Seen]:
        """Requests whose path ends so."""
        return [seen for seen in self.seen if seen.path.endswith(page)]

    def fail(self, *failures: Failure) -> None:
        """What happens to the next requests."""
        self.failures.extend(failures)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    # --- the model ----------------------------------------------------------------------------------------------

    def prompt_rows(self, body: dict[str, Any]) -> torch.Tensor:
        """Rows [T, D] that a request wants to be read. ValueError for what none can be."""
        if "messages" in body:
            return self.base.embed(self._ids(self.chat_template(body["messages"])))
        rows = [self.base.embed(self._ids(body["prompt"]))] if body.get("prompt") else []
        if body.get("prompt_embeds"):
            if not self.takes_embeds:
                raise ValueError("You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
            embeds_TD = decoded_embeds(body["prompt_embeds"], hidden_size=self.base.info.dim)
            like_TD = self.base.embed(np.zeros(0, dtype=np.uint32))
            rows.insert(0, embeds_TD.to(dtype=like_TD.dtype, device=like_TD.device))
        if not rows:
            raise ValueError("Either prompt or prompt_embeds must be provided and non-empty.")
        return torch.cat(rows)

    def generate(self, rows_TD: torch.Tensor, body: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Text of each token, and '' or why the answer ends."""
        num_new = int(body.get("max_tokens") or body.get("max_completion_tokens") or 16)
        sampler = Sampler(
            SamplingConfig(
                temperature=body.get("temperature", 1.0), top_p=body.get("top_p", 1.0), seed=body.get("seed")
            )
        )
        detokenizer = Detokenizer(self.base.codec)
        cache = self.base.new_cache(len(rows_TD) + num_new)
        inputs_TD, position = rows_TD, 0
        for number in range(num_new):
            with self._model_lock:
                positions = np.arange(position, position + len(inputs_TD), dtype=np.float64)
                logits_V = self.base.forward(inputs_TD, positions, cache)[-1]
            position += len(inputs_TD)
            token_id = sampler.draw(logits_V)
            if token_id in self.base.info.stop_token_ids:
                yield detokenizer.flush(), "stop"
                return
            text = detokenizer.push(token_id)
            is_last = number == num_new - 1
            yield text + (detokenizer.flush() if is_last else ""), "length" if is_last else ""
            inputs_TD = self.base.embed(np.array([token_id], dtype=np.uint32))

    def _ids(self, text: str) -> Any:
        return self.base.codec.encode(text).token_ids


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    owner: OpenAIServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked went away: nothing to report."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: _Http

    @property
    def owner(self) -> OpenAIServer:
        return self.server.owner

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is written to standard error."""

    def do_GET(self) -> None:
        self._take({})
        if not self._is_allowed():
            return
        if self.path == "/v1/models":
            told: dict[str, Any] = {"id": self.owner.model, "object": "model"}
            if self.owner.style == "vllm":
                told["max_model_len"] = self.owner.context_tokens
            self._json(200, {"object": "list", "data": [told]})
        elif self.path == "/props" and self.owner.style == "llama.cpp":
            self._json(200, {"default_generation_settings": {"n_ctx": self.owner.context_tokens}})
        else:
            self._json(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        except ValueError:
            return self._refuse(400, "the body is no JSON", "invalid_request_error")
        self._take(body)
        failure = self._next_failure()
        if failure and failure.after_tokens is None:
            return self._fail(failure)
        if not self._is_allowed():
            return None
        if self.path == "/tokenize":
            return self._tokenize(body)
        if self.path not in ("/v1/completions", "/v1/chat/completions"):
            return self._json(404, {"detail": "Not Found"})
        if body.get("model") != self.owner.model:
            return self._refuse(404, f"The model `{body.get('model')}` does not exist.", "NotFoundError")
        try:
            rows_TD = self.owner.prompt_rows(body)
        except ValueError as error:
            return self._refuse(400, str(error), "BadRequestError")
        num_new = int(body.get("max_tokens") or 16)
        if len(rows_TD) + num_new > self.owner.context_tokens:
            return self._too_long(len(rows_TD), num_new)
        return self._stream(rows_TD, body, failure) if body.get("stream") else self._whole(rows_TD, body)

    # --- answers ------------------------------------------------------------------------------------------------

    def _tokenize(self, body: dict[str, Any]) -> None:
        field_name = {"vllm": "prompt", "llama.cpp": "content"}.get(self.owner.style)
        if field_name is None:
            return self._json(404, {"detail": "Not Found"})
        if field_name not in body:
            return self._refuse(400, f"Field required: {field_name}", "BadRequestError")
        ids = self.owner.base.codec.encode(body[field_name]).token_ids.tolist()
        return self._json(200, {"tokens": ids, "count": len(ids)})

    def _whole(self, rows_TD: torch.Tensor, body: dict[str, Any]) -> None:
        pieces = list(self.owner.generate(rows_TD, body))
        self._json(
            200,
            {
                "model": self.owner.model,
                "choices": [self._choice("".join(text for text, _ in pieces), pieces[-1][1], is_stream=False)],
                "usage": _usage(len(rows_TD), len(pieces)),
            },
        )

    def _stream(self, rows_TD: torch.Tensor, body: dict[str, Any], failure: Failure | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        number = 0
        try:
            for number, (text, reason) in enumerate(self.owner.generate(rows_TD, body), start=1):
                if failure and failure.after_tokens is not None and number > failure.after_tokens:
                    return self._break(failure)
                self._event({"model": self.owner.model, "choices": [self._choice(text, reason, is_stream=True)]})
            if body.get("stream_options", {}).get("include_usage"):
                self._event({"model": self.owner.model, "choices": [], "usage": _usage(len(rows_TD), number)})
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")
        except (BrokenPipeError, ConnectionResetError):  # whoever asked has heard enough
            self.close_connection = True

    def _choice(self, text: str, reason: str, *, is_stream: bool) -> dict[str, Any]:
        said: dict[str, Any] = {"text": text}
        if self.path.endswith("chat/completions"):
            said = {"delta" if is_stream else "message": {"role": "assistant", "content": text}}
        return {"index": 0, **said, "finish_reason": reason or None}

    def _too_long(self, num_prompt: int, num_new: int) -> None:
        limit = self.owner.context_tokens
        if self.owner.style == "llama.cpp":
            said = (
                f"request ({num_prompt} tokens) exceeds the available context size ({limit} tokens), try increasing it"
            )
            error = {"code": 400, "message": said, "type": "exceed_context_size_error"}
            return self._json(400, {"error": {**error, "n_prompt_tokens": num_prompt, "n_ctx": limit}})
        said = (
            f"This model's maximum context length is {limit} tokens. However, you requested {num_prompt + num_new} "
            f"tokens ({num_prompt} in the messages, {num_new} in the completion). Please reduce the length of the "
            "messages."
        )
        return self._refuse(400, said, "BadRequestError", code="context_length_exceeded")

    # --- failures -----------------------------------------------------------------------------------------------

    def _next_failure(self) -> Failure | None:
        failures = self.owner.failures
        return failures.popleft() if failures and self.path.endswith(failures[0].page) else None

    def _fail(self, failure: Failure) -> None:
        if failure.hang_s:
            self.owner.is_closing.wait(min(failure.hang_s, MOST_WAIT_S))
        if not failure.status:
            self.close_connection = True
            return
        is_text = isinstance(failure.body, str)
        body = failure.body.encode() if is_text else json.dumps(failure.body).encode()
        kind = "text/html" if is_text else "application/json"
        self._send(failure.status, body, [("Content-Type", kind), *failure.headers])

    def _break(self, failure: Failure) -> None:
        if failure.event is not None:
            self._event(failure.event)
        if failure.hang_s:
            self.owner.is_closing.wait(min(failure.hang_s, MOST_WAIT_S))
        self.close_connection = True  # without the chunk that ends a body

    # --- HTTP ---------------------------------------------------------------------------------------------------

    def _take(self, body: dict[str, Any]) -> None:
        self.owner.seen.append(Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))

    def _is_allowed(self) -> bool:
        key = self.owner.api_key
        if key and self.headers.get("authorization") != f"Bearer {key}":
            self._refuse(401, "Incorrect API key provided.", "invalid_request_error", code="invalid_api_key")
            return False
        return True

    def _refuse(self, status: int, said: str, kind: str, *, code: str | None = None) -> None:
        self._json(status, {"error": {"message": said, "type": kind, "code": code or status}})

    def _json(self, status: int, found: Any) -> None:
        self._send(status, json.dumps(found).encode(), [("Content-Type", "application/json")])

    def _send(self, status: int, body: bytes, headers: Sequence[tuple[str, str]]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _event(self, found: Any) -> None:
        self._chunk(f"data: {json.dumps(found)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):X}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def _usage(num_prompt: int, num_new: int) -> dict[str, int]:
    return {"prompt_tokens": num_prompt, "completion_tokens": num_new, "total_tokens": num_prompt + num_new}
