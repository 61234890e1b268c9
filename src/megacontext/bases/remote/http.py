"""Requests to one API: timeouts on everything, retries with backoff, and errors in one line.

A request is tried again after 408, 409, 429, the server's own failures and broken connections, with waits that double
and are spread by chance, or as ``Retry-After`` says; never once a part of the answer was handed on. Redirects are not
followed, so that a key goes to the server that was named and to no other.
"""

from __future__ import annotations

import json
import random
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from megacontext.bases.remote.address import ApiAddress
from megacontext.bases.remote.api_key import ApiKey
from megacontext.bases.remote.failures import error_in, is_worth_another_try, refusal
from megacontext.bases.remote.sse import event_data
from megacontext.bases.remote.watchdog import Watchdog
from megacontext.errors import MegaContextError, ServerError
from megacontext.units import MIB
from megacontext.values import number, whole_number

__all__ = ["ApiClient", "Patience"]

MOST_BODY_BYTES = 64 * MIB


@dataclass(frozen=True, kw_only=True)
class Patience:
    """connect_s: until a connection stands; first_token_s: until an answer begins, which takes as long as reading the
    prompt; between_tokens_s: until it goes on; num_retries: after the first try; first_wait_s: before the first of
    them, doubled for each; longest_wait_s: the longest wait that a server may ask for."""

    connect_s: float = 10.0
    first_token_s: float = 300.0
    between_tokens_s: float = 60.0
    num_retries: int = 4
    first_wait_s: float = 0.5
    longest_wait_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("connect_s", "first_token_s", "between_tokens_s"):
            number(name, getattr(self, name), above=0)
        whole_number("num_retries", self.num_retries, of="retries", usual=4)
        for name in ("first_wait_s", "longest_wait_s"):
            number(name, getattr(self, name), least=0)


class ApiClient:
    """sleep: waits between tries. One object may serve several threads."""

    def __init__(
        self,
        address: ApiAddress,
        key: ApiKey | None,
        patience: Patience | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address = address
        self.key = key
        self.patience = patience or Patience()
        self._sleep = sleep
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {key.value}"} if key else {},
            timeout=httpx2.Timeout(self.patience.first_token_s, connect=self.patience.connect_s),
            trust_env=not address.is_local,
            follow_redirects=False,
        )
        weakref.finalize(self, self._client.close)  # bases have no end of their own; connections do

    def get(self, url: str) -> Any:
        """JSON of a page that not every server has, or not for everybody; None where there is none. ServerError as in
        ``post``."""
        return self._asked("GET", url, None)

    def post_optional(self, url: str, body: dict[str, Any]) -> Any:
        """JSON that not every server gives; None where it does not."""
        return self._asked("POST", url, body)

    def post(self, url: str, body: dict[str, Any]) -> Any:
        """JSON of an answer. Raises: ServerError, PromptTooLongError."""
        return self._with_retries(lambda: self._once("POST", url, body))

    def events(self, url: str, body: dict[str, Any]) -> Iterator[Any]:
        """JSON of each event of an answer that comes in pieces, or all of it at once where the server does not stream.

        Closing the iterator ends the request, and with it the server's work. Raises: ServerError, PromptTooLongError.
        """
        tries = _Tries(self.patience, self._sleep)
        while True:
            has_begun = False
            try:
                for event in self._events_once(url, body):
                    has_begun = True
                    yield event
                return
            except _TryAgainError as again:
                if has_begun:
                    raise ServerError(
                        f"{self.address.host} broke off in the middle of an answer ({again.reason}); ask again"
                    ) from again
                tries.wait(again)

    def _asked(self, method: str, url: str, body: dict[str, Any] | None) -> Any:
        try:
            return self._with_retries(lambda: self._once(method, url, body, is_optional=True))
        except _NotThereError:
            return None

    def _with_retries(self, ask: Callable[[], Any]) -> Any:
        tries = _Tries(self.patience, self._sleep)
        while True:
            try:
                return ask()
            except _TryAgainError as again:
                tries.wait(again)

    def _once(self, method: str, url: str, body: dict[str, Any] | None, *, is_optional: bool = False) -> Any:
        with self._sent(method, url, body, is_optional=is_optional) as response:
            said = _whole(response)
            return self._json(said, is_optional=True) if is_optional else self._answer(said)

    def _events_once(self, url: str, body: dict[str, Any]) -> Iterator[Any]:
        with self._sent("POST", url, body) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                yield self._answer(_whole(response))
                return
            with Watchdog(response, first_s=self.patience.first_token_s) as watchdog:
                for data in event_data(watchdog.watched(response.iter_bytes())):
                    watchdog.extend(self.patience.between_tokens_s)
                    if data.strip() == "[DONE]":
                        return
                    yield self._answer(data.encode())

    @contextmanager
    def _sent(
        self, method: str, url: str, body: dict[str, Any] | None, *, is_optional: bool = False
    ) -> Iterator[httpx2.Response]:
        """A response that is no refusal. _TryAgainError for what may go better a little later."""
        try:
            with self._client.stream(method, url, json=body) as response:
                if response.status_code >= 300:
                    said = _whole(response).decode("utf-8", errors="replace")
                    if is_optional and _says_not_there(response.status_code):
                        raise _NotThereError
                    error = self._refusal(response.status_code, said)
                    if is_worth_another_try(response.status_code, said):
                        raise _TryAgainError(f"HTTP {response.status_code}", error, _retry_after(response))
                    raise error
                yield response
        except httpx2.HTTPError as error:
            raise self._broken(error) from error
        except (httpx2.InvalidURL, httpx2.StreamError, UnicodeError) as error:
            raise ServerError(f"{self.address.url} cannot be asked ({error}); check the URL") from error

    def _broken(self, error: httpx2.HTTPError) -> Exception:
        server, reason = self.address.url, " ".join(str(error).split()) or type(error).__name__
        match error:
            case httpx2.ConnectTimeout():
                told = (
                    f"{server} did not answer within {self.patience.connect_s:g} s; check the URL, and whether it runs"
                )
            case httpx2.TimeoutException():  # who was silent for minutes would be so again
                how = reason if reason.startswith("silent") else f"silent for {self.patience.first_token_s:g} s"
                return ServerError(f"{server} was {how}; try again, or look into its log")
            case httpx2.ProxyError():
                return ServerError(f"the proxy before {server} refused ({reason}); check HTTPS_PROXY and NO_PROXY")
            case httpx2.UnsupportedProtocol():
                return ServerError(f"{server} cannot be asked ({reason}); use http:// or https://")
            case httpx2.ConnectError() if "certificate" in reason.lower() or "ssl" in reason.lower():
                return ServerError(
                    f"the connection to {server} is not secure ({reason}); check the URL, and the certificates that "
                    "this machine trusts (SSL_CERT_FILE)"
                )
            case httpx2.ConnectError():
                told = f"nothing answers at {server} ({reason}); start the server, or check the URL"
            case _:
                told = f"the connection to {server} broke ({reason}); try again"
        return _TryAgainError(reason, ServerError(told))

    def _json(self, body: bytes, *, is_optional: bool = False) -> Any:
        try:
            return json.loads(body)
        except ValueError as error:
            if is_optional:
                raise _NotThereError from error
            kind = "a web page" if body.lstrip().startswith(b"<") else "no JSON"
            raise ServerError(
                f"{self.address.url} answers with {kind}; it is no OpenAI-compatible API, check the URL "
                "(it mostly ends in /v1)"
            ) from error

    def _answer(self, body: bytes) -> Any:
        """JSON that is no error."""
        found = self._json(body)
        if status := error_in(found):
            raise self._refusal(status, body.decode("utf-8", errors="replace"))
        return found

    def _refusal(self, status: int, said: str) -> MegaContextError:
        model_ids = self.model_ids() if status == 404 else []
        return refusal(status, said, self.address, self.key, model_ids=model_ids)

    def model_ids(self) -> list[str]:
        """Models that the server lists; [] where it has no list."""
        try:
            return [
                str(each["id"])
                for each in self._once("GET", f"{self.address.url}/models", None, is_optional=True)["data"]
            ]
        except (_NotThereError, _TryAgainError, MegaContextError, LookupError, TypeError):
            return []


class _NotThereError(Exception):
    """A page that the server does not have."""


class _TryAgainError(Exception):
    """A try that failed and may go better. error: what to raise if there is no other; wait_s: what the server asks
    for, None if nothing."""

    def __init__(self, reason: str, error: MegaContextError, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.error, self.wait_s = reason, error, wait_s


class _Tries:
    def __init__(self, patience: Patience, sleep: Callable[[float], None]) -> None:
        self._patience, self._sleep = patience, sleep
        self._num_waits = 0

    def wait(self, again: _TryAgainError) -> None:
        """Wait for the next try; raises the error of the last one where there is none."""
        patience = self._patience
        if self._num_waits >= patience.num_retries:
            raise again.error from again
        wait_s = patience.first_wait_s * 2**self._num_waits * random.uniform(0.5, 1.0)
        if again.wait_s is not None:
            if again.wait_s > patience.longest_wait_s:
                raise ServerError(f"{again.error} (it asks to wait {again.wait_s:.0f} s)") from again
            wait_s = again.wait_s + wait_s * 0.1
        self._num_waits += 1
        self._sleep(min(wait_s, patience.longest_wait_s))


def _whole(response: httpx2.Response) -> bytes:
    """All of a body, as far as a sane one goes."""
    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > MOST_BODY_BYTES:
            raise ServerError(
                f"{response.url.host} answers with more than {MOST_BODY_BYTES // MIB} MiB; it is no OpenAI-compatible "
                "API, check the URL"
            )
    return bytes(body)


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds, however ``Retry-After`` says them (RFC 9110, 10.2.3)."""
    told = response.headers.get("retry-after", "").strip()
    if not told:
        return None
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _says_not_there(status: int) -> bool:
    """Whether a page is not to be had: missing, of another form, or for others than whoever may ask for answers. 408,
    409, 429 and failures say nothing of the page, and whoever remembers what is missing must not remember those."""
    return status == 501 or (status < 500 and status not in (408, 409, 429))
