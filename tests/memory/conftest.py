"""What the tests of this room share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from megacontext.documents import loading
from megacontext.memory import drafting

_PATH = Path(__file__).with_name("doubles.py")


def _load():
    name = "memory_doubles"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, _PATH)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def kit():
    """The module ``doubles``: codec, gisters, ``make_memory``, ``open_folder``."""
    return _load()


@pytest.fixture
def in_pieces(monkeypatch):
    """Every plain file comes in many small pieces."""
    monkeypatch.setattr(loading, "STREAM_BYTES", 1)
    monkeypatch.setattr(loading.OpenFile.pieces, "__defaults__", (1000,))
    monkeypatch.setattr(drafting, "BATCH_PIECES", 2)
