"""Chat logs: JSON lines, or one JSON array, of messages with ``role`` and ``content``; one section per message.

``content`` is a string or a list of parts, of which the texts are kept. ``name`` and a time (``time``, ``timestamp``
or ``created_at``, in seconds since 1970 or ISO 8601) are optional. A message stands in the text as ``role: content``.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterator
from typing import Any

from megacontext.documents.decoding import decode_text, without_surrogates
from megacontext.documents.document import Parsed, Section
from megacontext.errors import NotTextError
from megacontext.values import shown

__all__ = ["looks_like_chat", "may_be_chat", "parse"]

NOT_JSON = (ValueError, RecursionError)  # the second for brackets in brackets in brackets
_TIME_KEYS = ("time", "timestamp", "created_at")


def looks_like_chat(raw: bytes) -> bool:
    """Whether a JSON file holds messages; one that does not is kept as it stands, like source code.

    The first line or item decides, also when it is broken or lacks a half: then it is a chat with an error to name.
    """
    text = raw.decode("utf-8-sig", "replace").lstrip()
    if text.startswith("["):
        try:
            items = json.loads(text)
        except NOT_JSON:
            return False
        return bool(items) and _is_message(items[0])
    first = text.split("\n", 1)[0]
    try:
        return _is_message(json.loads(first))
    except NOT_JSON:
        return '"role"' in first and '"content"' in first


def may_be_chat(head: bytes) -> bool:
    """Whether a long JSON file that begins so may hold messages; True also where its head cannot tell."""
    text = head.decode("utf-8-sig", "replace").lstrip()
    if not text.startswith("["):
        first, line_end, _ = text.partition("\n")
        return looks_like_chat(first.encode()) if line_end else first.startswith("{")
    first = text[1:].lstrip()
    try:
        return _is_message(json.JSONDecoder().raw_decode(first)[0])
    except NOT_JSON:
        return first.startswith("{")


def _is_message(item: Any) -> bool:
    return isinstance(item, dict) and "role" in item and "content" in item


def parse(raw: bytes, name: str) -> Parsed:
    """Raises: NotTextError naming the line (or message) that is broken."""
    sections = []
    texts = []
    position = 0
    for place, message in _messages(decode_text(raw, name), name):
        role, speaker, content, time = _fields(message, f"{name}, {place}")
        if not content.strip():
            continue  # a call of a tool, a picture: nothing to read
        text = without_surrogates(f"{speaker or role}: {content}\n\n")
        sections.append(
            Section(char_start=position, char_stop=position + len(text), title=speaker, role=role, time=time)
        )
        texts.append(text)
        position += len(text)
    return Parsed(text="".join(texts), sections=tuple(sections))


def _messages(text: str, name: str) -> Iterator[tuple[str, Any]]:
    if text.lstrip().startswith("["):
        try:
            items = json.loads(text)
        except NOT_JSON as error:
            raise NotTextError(f"{name} is no JSON array ({error}); repair it") from error
        yield from ((f"message {number}", item) for number, item in enumerate(items, start=1))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except NOT_JSON as error:
                raise NotTextError(f"{name}, line {number} is no JSON ({error}); repair or remove it") from error


def _fields(message: Any, place: str) -> tuple[str, str, str, float]:
    """Role, name, content and time of one message."""
    if not _is_message(message) or not isinstance(message["role"], str):
        raise NotTextError(f'{place} is no message; give an object with "role" and "content"')
    name = message.get("name") or ""
    if not isinstance(name, str):
        raise NotTextError(f"{place} has the name {name!r}; give text")
    return (
        without_surrogates(message["role"]),
        without_surrogates(name),
        _content(message, place),
        _time(message, place),
    )


def _content(message: dict[str, Any], place: str) -> str:
    content = message["content"]
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        parts = [part.get("text", "") if isinstance(part, dict) else part for part in content]
        if all(isinstance(part, str) for part in parts):
            return "\n".join(part for part in parts if part)
    raise NotTextError(f"{place} has content of type {type(content).__name__}; give text or a list of text parts")


def _time(message: dict[str, Any], place: str) -> float:
    value = next((message[key] for key in _TIME_KEYS if message.get(key) is not None), None)
    if value is None:
        return 0.0
    try:
        if isinstance(value, str):
            moment = dt.datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
        seconds = float(value)
        if not math.isfinite(seconds):
            raise ValueError("not finite")
        return seconds
    except (TypeError, ValueError, OverflowError) as error:
        raise NotTextError(
            f"{place} has the time {shown(value)}; give seconds since 1970 or ISO 8601, such as 2026-01-31T12:00:00Z"
        ) from error
