"""Settings of every test: CI draws the same examples each time, a developer's machine draws new ones. And the bundled
model, loaded once, with a server over it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from megacontext.bases.registry import load_base
from megacontext.ports.base import Base
from megacontext.testing.openai_server import OpenAIServer

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("developer", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


@pytest.fixture(scope="session")
def reference() -> Base:
    return load_base("reference")


@pytest.fixture
def server(reference: Base) -> Iterator[OpenAIServer]:
    with OpenAIServer(reference) as opened:
        yield opened
