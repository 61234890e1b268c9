"""A server over the bundled model, and what talks to it without waiting long."""

from __future__ import annotations

import pytest

from megacontext.bases.remote.address import ApiAddress
from megacontext.bases.remote.api_key import ApiKey
from megacontext.bases.remote.http import ApiClient, Patience


@pytest.fixture
def waits():
    """How long was waited between tries."""
    return []


@pytest.fixture
def client_of(waits):
    def make(url, *, key=None, **patience):
        address = ApiAddress.parse(f"openai:reference@{url}")
        given = None if key is None else ApiKey(key, "the test")
        return ApiClient(address, given, Patience(**patience), sleep=waits.append)

    return make
