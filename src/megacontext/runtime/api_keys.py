"""Where the key of an API comes from when none is given: the environment of the process that opens a memory.

A memory names its server, and memories are passed on. So a variable that other programs share is shown to its own
vendor only; the one that is ours goes wherever the user's memories say.
"""

from __future__ import annotations

import os

from megacontext.bases.remote.address import ApiAddress
from megacontext.bases.remote.api_key import ApiKey
from megacontext.errors import InvalidValueError

__all__ = ["OURS", "THEIRS", "find_key", "given_key"]

OURS = "MEGACONTEXT_API_KEY"
THEIRS = "OPENAI_API_KEY"
THEIR_HOST = "api.openai.com"


def given_key(api_key: str | None) -> ApiKey | None:
    """The key that somebody gives to ``open``. InvalidValueError, without it, for one that no header can hold."""
    if api_key is None:
        return None
    if not isinstance(api_key, str):
        raise InvalidValueError(f"api_key is of type {type(api_key).__name__}; give the key as a str, or None")
    return ApiKey(api_key, "api_key")


def find_key(address: ApiAddress, given: ApiKey | None = None) -> ApiKey | None:
    """The key for an API: the one that was given, else that of the environment; None if there is none, which a server
    on this machine seldom minds. InvalidValueError as in ``given_key``."""
    if given is not None:
        return given
    names = (OURS, THEIRS) if address.host == THEIR_HOST else (OURS,)
    for name in names:
        if value := os.environ.get(name):
            return ApiKey(value, f"the environment variable {name}")
    return None
