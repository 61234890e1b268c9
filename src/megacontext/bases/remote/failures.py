"""What a server's refusal means: one line that names what was asked, what it said, and what to do.

vLLM, llama.cpp, Ollama and OpenAI say that a prompt is too long in ways of their own; all of them are a
``PromptTooLongError`` here.
"""

from __future__ import annotations

import json
import re
from typing import Any

from megacontext.bases.remote.address import ApiAddress
from megacontext.bases.remote.api_key import ApiKey
from megacontext.errors import MegaContextError, PromptTooLongError, ServerError

__all__ = ["error_in", "is_worth_another_try", "message_of", "refusal", "said_by"]

MOST_SAID_CHARS = 300
# A quota that is used up does not come back by waiting.
_USED_UP = re.compile(r"insufficient_quota|exceeded your current quota|billing", re.IGNORECASE)
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|maximum model length"
    r"|context (size|length|window)|prompt is too long"
    r"|too large to process|reduce the length of|max_model_len|request too large",
    re.IGNORECASE,
)
_LIMITS = re.compile(
    r"(?:maximum context length (?:is|of)|context size \(|maximum model length (?:is|of)|\"n_ctx\": ?) ?(\d+)",
    re.IGNORECASE,
)
_PROMPTS = re.compile(
    r"\"n_prompt_tokens\": ?(\d+)|\((\d+) in the messages|request \((\d+) tokens\)|resulted in (\d+) tokens"
    r"|at least (\d+) input tokens|\(length (\d+)\)",
    re.IGNORECASE,
)
_KEYS = re.compile(r"\b(?:sk|pk|key|hf|gsk)[-_][\w*-]+")


def is_worth_another_try(status: int, body: str) -> bool:
    """Whether the same request may well succeed a little later: 408, 409, 429 and the server's own failures."""
    if status in (408, 409, 429):
        return not _USED_UP.search(body) and not _TOO_LONG.search(body)
    return status >= 500 and status != 501 and not _TOO_LONG.search(body)


def refusal(
    status: int, body: str, address: ApiAddress, key: ApiKey | None, *, model_ids: list[str]
) -> MegaContextError:
    """The error for an answer that is none. model_ids: what the server has, for a model that it does not know."""
    server, said = address.host, said_by(body, key)
    if _TOO_LONG.search(body) and status in (400, 413, 422, 429, 500):
        limit = _LIMITS.search(body)
        prompt = _PROMPTS.search(body)
        return PromptTooLongError(
            f"{server} says that the prompt does not fit into the window of {address.served_model}: {said}",
            window_tokens=int(limit[1]) if limit else 0,
            prompt_tokens=int(next(filter(None, prompt.groups()))) if prompt else 0,
        )
    if status == 401 or (status == 403 and key is None):
        how = f"the key from {key.origin}" if key else "a request without a key"
        return ServerError(
            f"{server} refused {how} (HTTP {status}); give its key by MEGACONTEXT_API_KEY, or api_key= in Python"
        )
    if status == 403:
        return ServerError(
            f"{server} does not allow this with the key from {_origin(key)} (HTTP 403): {said}; use another"
        )
    if status == 404 and (model_ids or "model" in body.lower()):
        known = f"it has {', '.join(sorted(model_ids)[:12])}" if model_ids else "see what it has"
        return ServerError(f"{server} does not know the model {address.served_model}; {known}")
    if status in (404, 405):
        return ServerError(
            f"{address.url} is no OpenAI-compatible API (HTTP {status}); give its address with the /v1, as in "
            "http://localhost:8000/v1"
        )
    if 300 <= status < 400:
        return ServerError(f"{address.url} leads to another place (HTTP {status}); give the address that it leads to")
    if status == 429:
        return ServerError(f"{server} takes no more requests for now (HTTP 429): {said}; try again later")
    if status >= 500:
        return ServerError(f"{server} failed (HTTP {status}): {said}; try again, or look into its log")
    return ServerError(f"{server} refused the request (HTTP {status}): {said}")


def said_by(body: str, key: ApiKey | None) -> str:
    """What a server said in words, on one short line, without anything that looks like a key."""
    line = " ".join(message_of(body).split()).rstrip(".") or "it did not say why"
    line = _KEYS.sub("***", key.hidden_in(line) if key else line)
    return line if len(line) <= MOST_SAID_CHARS else f"{line[: MOST_SAID_CHARS - 3]}..."


def message_of(body: str) -> str:
    """The message in the body of an error, in any of the shapes that servers give it."""
    try:
        found: Any = json.loads(body)
    except ValueError:
        return "" if body.lstrip().startswith("<") else body
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    return found if isinstance(found, str) else json.dumps(found)


def error_in(found: Any) -> int:
    """The status that an error stands for which came with HTTP 200, as a whole body or in the middle of a stream; 0 for
    what is none."""
    if not isinstance(found, dict):
        return 0
    error = found.get("error")
    if not error:  # vLLM and llama.cpp may give it bare; null beside choices is none
        if "choices" in found or not {"code", "message"} <= found.keys():
            return 0
        error = found
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def _origin(key: ApiKey | None) -> str:
    return key.origin if key else "nowhere"
