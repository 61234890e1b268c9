"""What is asked of a server, and what it would rather not be asked: some refuse parameters that others insist on.

A refusal that says such a parameter itself is not to be had is heeded once and remembered for that server. One of its
value is an error: to leave the parameter out would draw tokens otherwise than was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from megacontext.bases.remote.http import ApiClient
from megacontext.errors import PromptTooLongError, ServerError
from megacontext.ports.completion import CompletionRequest

__all__ = ["Asker"]

Body = dict[str, Any]


def _rename_limit(body: Body) -> Body:
    renamed = {name: value for name, value in body.items() if name != "max_tokens"}
    return {**renamed, "max_completion_tokens": body["max_tokens"]} if "max_tokens" in body else body


def _without(*names: str) -> Callable[[Body], Body]:
    return lambda body: {name: value for name, value in body.items() if name not in names}


# what a refusal says, and what to do about it
HABITS: tuple[tuple[re.Pattern[str], Callable[[Body], Body]], ...] = (
    (re.compile(r"max_completion_tokens"), _rename_limit),
    (re.compile(r"stream_options"), _without("stream_options")),
    (re.compile(r"top_p", re.IGNORECASE), _without("top_p")),  # of two that may not come together, this one goes
    (re.compile(r"temperature", re.IGNORECASE), _without("temperature")),
    (re.compile(r"\bseed\b"), _without("seed")),
)
NUM_HARMLESS = 2  # the first of them draw the same tokens, so that any refusal that names them is heeded
# how servers say that a parameter is not to be had, or may not be set
_NOT_TO_BE_HAD = re.compile(
    r"unsupported|unrecogni[sz]ed|unknown|extra_forbidden|extraneous|deprecated|cannot both be"
    r"|unexpected (?:argument|field|key|parameter|property)"
    r"|(?:\bnot|n['\u2019]t) (?:currently )?(?:accept|allow|known|permit|recogni[sz]|support)"
    r"|\bnot a valid (?:argument|field|parameter)\b(?! value)"
    r"|\bonly .{1,40} (?:is|are) (?:allowed|permitted|supported)",
    re.IGNORECASE,
)
# and that it may, but within bounds
_BOUNDS = re.compile(
    r"\b(?:between|range|above|below|at (?:least|most)|(?:less|greater|more|lower|higher|larger|smaller) than"
    r"|maximum|minimum)\b|[<>]=",
    re.IGNORECASE,
)


class Asker:
    """Sends bodies to one page of one API."""

    def __init__(self, client: ApiClient, page: str) -> None:
        self._client = client
        self._url = f"{client.address.url}/{page}"
        self._habits: list[int] = []

    def stream(self, request: CompletionRequest, prompt: Body) -> Iterator[Any]:
        """Events of an answer. prompt: the part of the body that says what to read."""
        body: Body = {
            "model": self._client.address.served_model,
            **prompt,
            "max_tokens": request.max_new_tokens,
            "temperature": request.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.temperature > 0:
            body["top_p"] = request.top_p
            if request.seed is not None:
                body["seed"] = request.seed
        while True:
            has_begun = False
            try:
                for event in self._client.events(self._url, self._as_it_wants(body)):
                    has_begun = True
                    yield event
                return
            except ServerError as error:
                if has_begun or not self._learn(error):
                    raise

    def whole(self, prompt: Body, *, max_new_tokens: int) -> Any:
        """An answer in one piece, drawn without chance."""
        body: Body = {
            "model": self._client.address.served_model,
            **prompt,
            "max_tokens": max_new_tokens,
            "temperature": 0.0,
        }
        while True:
            try:
                return self._client.post(self._url, self._as_it_wants(body))
            except ServerError as error:
                if not self._learn(error):
                    raise

    def _as_it_wants(self, body: Body) -> Body:
        for habit in self._habits:
            body = HABITS[habit][1](body)
        return body

    def _learn(self, error: ServerError) -> bool:
        """Whether a refusal named something that need not be said, or not so."""
        refusal = str(error)
        if "refused the request" not in refusal or isinstance(error, PromptTooLongError):
            return False
        if _BOUNDS.search(refusal):
            return False
        is_plain = bool(_NOT_TO_BE_HAD.search(refusal))
        for number, (said, _) in enumerate(HABITS):
            if number not in self._habits and said.search(refusal) and (is_plain or number < NUM_HARMLESS):
                self._habits.append(number)
                return True
        return False
