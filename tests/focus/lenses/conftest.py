"""A memory of plain text in which four characters are one token."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from megacontext.focus.working_context import WorkingContext
from megacontext.ports.focus import FocusRequest
from megacontext.testing.lens_suite import focus_request, small_context
from megacontext.testing.text_memory import BLOCK_TOKENS, TextMemory


def request(memory, query_text: str = "", *, attention_mass=None, wc: WorkingContext | None = None) -> FocusRequest:
    mass = None if attention_mass is None else np.asarray(attention_mass)
    return focus_request(memory, query_text, wc or small_context(memory), attention_mass=mass)


@pytest.fixture(scope="session")
def plain() -> SimpleNamespace:
    return SimpleNamespace(TextMemory=TextMemory, request=request, working_context=small_context, BLOCK=BLOCK_TOKENS)
