"""Where the key of an API comes from when none is given: the environment of the process that opens a memory.

A memory names its server, and memories are passed on. So a variable that other programs share is shown to its own
vendor only; the one that is ours goes wherever the user's memories say.
"""

from __future__ import annotations

import os

from megacontext.bases.remote.address import ApiAddress
from megacontext.bases.remote.api_key import ApiKey
from megacontext.values import text

__all__ = ["OURS", "THEIRS", "find_key"]

OURS = "MEGACONTEXT_API_KEY"
THEIRS = "OPENAI_API_KEY"
THEIR_HOST = "api.openai.com"


def find_key(address: ApiAddress, given: str | None = None) -> ApiKey | None:
    """The key for an API; None if there is none, which a server on this machine seldom minds.

    given: by whoever opens the memory; it wins. InvalidValueError for one that no header can hold.
    """
    if given is not None:
        return ApiKey(text("api_key", given), "api_key")
    names = (OURS, THEIRS) if address.host == THEIR_HOST else (OURS,)
    for name in names:
        if value := os.environ.get(name):
            return ApiKey(value, f"the environment variable {name}")
    return None
