"""The answer of an OpenAI-compatible server, out of the JSON of its events.

Both APIs, streamed or not: ``choices[0]`` has ``text`` (completions), ``delta`` (chat, streamed) or ``message`` (chat).
What a model thinks before it answers (``reasoning_content``) is not shown.
https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from megacontext.bases.remote.api_key import ApiKey
from megacontext.bases.remote.failures import said_by
from megacontext.errors import PromptTooLongError, ServerError
from megacontext.ports.completion import CompletionPiece

__all__ = ["answer_pieces", "whole_answer"]

# How servers call an end: at the model's own, or because it may not be longer.
REASONS = {"length": "length", "max_tokens": "length", "content_filter": "stop"}
MOST_SHOWN_CHARS = 80


def answer_pieces(
    events: Iterable[Any],
    host: str,
    *,
    key: ApiKey | None,
    max_new_tokens: int,
    on_usage: Callable[[int], None],
) -> Iterator[CompletionPiece]:
    """Pieces of the answer, the last one with its reason. key: what no message may show; on_usage: told how many tokens
    the prompt had.

    Raises: ServerError if the stream ends before the answer does, or the answer is none; PromptTooLongError only before
    the model has said or thought anything.
    """
    reason, has_text, has_thought = "", False, False
    try:
        for event in events:
            if not isinstance(event, dict):
                raise _unreadable(host, key, event)
            usage = event.get("usage")
            if isinstance(usage, dict) and isinstance(usage.get("prompt_tokens"), int):
                on_usage(usage["prompt_tokens"])
            for choice in _choices(event, host, key)[:1]:
                text, thought = _said(choice, host, key)
                has_text, has_thought = has_text or bool(text), has_thought or thought
                if text:
                    yield CompletionPiece(text=text)
                if ended := choice.get("finish_reason"):
                    reason = REASONS.get(str(ended), "stop")
    except PromptTooLongError as error:
        if not has_text and not has_thought:
            raise
        # whoever writes has read the prompt: asked again it would say it all twice
        raise ServerError(
            f"{host} broke off in the middle of an answer ({error}); ask again, with a smaller budget or for a shorter "
            "answer"
        ) from error
    if not reason:
        raise ServerError(f"{host} ended its answer before it was whole (no finish_reason); ask again")
    if has_thought and not has_text and reason == "length":
        raise ServerError(
            f"the model spent all of its {max_new_tokens} tokens on thinking and said nothing; give it more "
            "(max_new_tokens, --max-new-tokens)"
        )
    yield CompletionPiece(text="", reason=reason)


def whole_answer(answer: Any, host: str, *, key: ApiKey | None) -> str:
    """The text of an answer that came at once. Raises: ServerError."""
    pieces = answer_pieces([answer], host, key=key, max_new_tokens=0, on_usage=lambda num_tokens: None)
    return "".join(piece.text for piece in pieces)


def _choices(event: dict[str, Any], host: str, key: ApiKey | None) -> list[Any]:
    """Choices of an event, none in one that tells no more than what was used."""
    choices = event.get("choices")
    if choices is None and "usage" in event:
        return []
    if not isinstance(choices, list):
        raise _unreadable(host, key, event)
    return choices


def _said(choice: Any, host: str, key: ApiKey | None) -> tuple[str, bool]:
    """Text of one choice, and whether it holds a thought."""
    if not isinstance(choice, dict):
        raise _unreadable(host, key, choice)
    said = choice.get("delta") or choice.get("message") or choice
    if not isinstance(said, dict):
        raise _unreadable(host, key, choice)
    content = said.get("content", said.get("text"))
    if isinstance(content, list):  # parts, of which some are text
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(content, str | None):
        raise _unreadable(host, key, choice)
    thought = any(said.get(name) for name in ("reasoning_content", "reasoning"))
    # half a surrogate pair is no text; the other half never comes, as JSON is decoded piece by piece
    return (content or "").encode("utf-8", "replace").decode(), thought


def _unreadable(host: str, key: ApiKey | None, found: Any) -> ServerError:
    shown = said_by(json.dumps(found), key)[:MOST_SHOWN_CHARS]  # cut last, so that no half of a key is left
    return ServerError(
        f"{host} answers in a form that no OpenAI-compatible API has ({shown!r}); check its URL and version"
    )
