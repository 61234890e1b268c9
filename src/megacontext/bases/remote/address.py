"""How a model behind an API is named: ``openai:MODEL@URL`` and ``vllm:MODEL@URL``, with options after a ``#``.

The name is what a memory records, so it never holds a user, a password or a key. What stands after the ``#`` stays on
this machine: tokenizer, kind of prompt, size of the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlencode, urlsplit

from megacontext.errors import InvalidValueError, UnknownNameError
from megacontext.values import choice, shown, text, whole_number

__all__ = ["APIS", "SCHEMES", "ApiAddress", "scheme_of"]

# What each scheme may be told after the ``#``.
SCHEMES: dict[str, tuple[str, ...]] = {
    "openai": ("api", "tokenizer", "window_tokens"),
    "vllm": ("served", "window_tokens"),
}
APIS = ("chat", "completions")
EXAMPLE = "openai:gpt-4o-mini@https://api.openai.com/v1"


def scheme_of(name: str) -> str | None:
    """``openai`` or ``vllm`` where a name begins with one of them, else None."""
    scheme, colon, _ = name.partition(":")
    return scheme if colon and scheme in SCHEMES else None


@dataclass(frozen=True, kw_only=True)
class ApiAddress:
    """scheme, model, url: of the API, such as ``http://localhost:8000/v1``, without a slash at its end.

    api: ``chat`` or ``completions``; tokenizer: whose tokens the memory is made of (a base's name, folder or id);
    served: the model's name at the server, where it differs; window_tokens: the server's limit where it does not say
    itself, 0 for unknown.

    >>> ApiAddress.parse("openai:qwen@http://localhost:8000/v1/#window_tokens=4096").name
    'openai:qwen@http://localhost:8000/v1#window_tokens=4096'
    """

    scheme: str
    model: str
    url: str
    api: str = "chat"
    tokenizer: str = "reference"
    served: str = ""
    window_tokens: int = 0

    @classmethod
    def parse(cls, name: str) -> ApiAddress:
        """InvalidValueError, UnknownNameError: one line that says which part is wrong."""
        name = text("base", name).strip()
        scheme = scheme_of(name)
        if scheme is None:
            raise InvalidValueError(f"base is {shown(name)}; begin with one of {', '.join(SCHEMES)}, as in {EXAMPLE}")
        rest, _, fragment = name.partition(":")[2].partition("#")
        model, at, url = rest.rpartition("@http")  # a model's own name may have an @
        if not at or not model:
            raise InvalidValueError(f"base is {shown(name)}; write {scheme}:MODEL@URL, as in {EXAMPLE}")
        told = _options(scheme, fragment)
        return cls(
            scheme=scheme,
            model=model,
            url=_checked_url(f"http{url}"),
            api=choice("api", told.get("api", "chat"), APIS),
            tokenizer=told.get("tokenizer", cls.tokenizer),
            served=told.get("served", ""),
            window_tokens=_window(told.get("window_tokens", "0")),
        )

    @property
    def name(self) -> str:
        """The whole of it in one line, defaults left out."""
        told = {key: getattr(self, key) for key in SCHEMES[self.scheme]}
        options = urlencode({key: value for key, value in told.items() if value != getattr(type(self), key)}, safe="/:")
        return f"{self.scheme}:{self.model}@{self.url}" + (f"#{options}" if options else "")

    @property
    def served_model(self) -> str:
        """The model as the server calls it."""
        return self.served or self.model

    @property
    def root(self) -> str:
        """Where servers have what is not part of the OpenAI API: the URL without its ``/v1``."""
        return self.url.removesuffix("/v1")

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine; no proxy stands between."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidValueError(f"the URL {shown(url)} cannot be read ({error}); give one such as {EXAMPLE}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidValueError(f"the URL {shown(url)} names no server; give one as in {EXAMPLE}")
    if parts.username is not None or parts.password is not None:
        raise InvalidValueError(
            f"the URL of {host} holds a user or a password, which a memory would record; leave them out and give the "
            "key by MEGACONTEXT_API_KEY or api_key="
        )
    if parts.query:
        raise InvalidValueError(
            f"the URL of {host} has a part after '?', which a memory would record; give the address of the API alone, "
            "such as https://host/v1"
        )
    return url.rstrip("/")


def _options(scheme: str, fragment: str) -> dict[str, str]:
    if not fragment:
        return {}
    try:
        told = dict(parse_qsl(fragment, strict_parsing=True))
    except ValueError as error:
        raise InvalidValueError(
            f"the options {shown(fragment)} cannot be read; write #NAME=VALUE&NAME=VALUE with "
            f"{', '.join(SCHEMES[scheme])}"
        ) from error
    for name in told:
        if name not in SCHEMES[scheme]:
            raise UnknownNameError.of(f"option of {scheme}:", name, list(SCHEMES[scheme]))
    return told


def _window(value: str) -> int:
    number = int(value) if value.isdecimal() and len(value) < 12 else value
    return whole_number("window_tokens", number, of="tokens", usual=8192)
