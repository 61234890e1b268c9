"""What the tests of this room share."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
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


@pytest.fixture(scope="session")
def pristine(kit, tmp_path_factory):
    """A folder with everything in it: sealed and unsealed, files, chats, bare tokens, a deep tree, two versions."""
    root = tmp_path_factory.mktemp("check")
    sources = root / "in"
    sources.mkdir()
    (sources / "book.txt").write_text("The wörds of a long book, number {}. ".format("x") * 120)
    (sources / "page.html").write_text("<title>T</title><p>some <b>bold</b> text</p>" * 20)
    (sources / "mark.txt").write_bytes(b"\xef\xbb\xbf" + "marked text ü ".encode() * 10)
    (sources / "log.jsonl").write_text(
        "\n".join(json.dumps({"role": "user", "content": f"turn {i}"}) for i in range(9))
    )
    with kit.open_folder(root / "m") as memory:
        memory.append(np.random.default_rng(0).integers(0, kit.VOCAB, 700))
        memory.ingest(sources, labels={"a": "b"})
        memory.append(np.random.default_rng(1).integers(0, kit.VOCAB, 300), source="bare", role="user")
        memory.append_text("the last turn", source="chat", role="user")
        memory.append([5, 6, 7])
        assert memory.num_tokens > 4 * 512
        state = memory.reader.state
        assert state.sealed_tokens < memory.num_tokens - 8
        assert memory.check(recompute_gists=True).ok
    return root


@pytest.fixture
def folder(pristine, tmp_path):
    """A copy to be damaged; the originals of its files are gone."""
    shutil.copytree(pristine / "m", tmp_path / "m")
    return tmp_path / "m"


@pytest.fixture
def wanted(kit, pristine):
    with kit.open_folder(pristine / "m", read_only=True) as memory:
        return everything(kit, memory)


def everything(kit, memory):
    """What users see, with the bytes of all sources."""
    digests = [source.raw_digest for source in memory.sources() if source.raw_digest]
    return {
        **kit.contents(memory),
        "raw": [hashlib.sha256(memory._parts.blobs.get(digest)).hexdigest() == digest for digest in digests],
        "labels": [dict(source.labels) for source in memory.sources()],
    }
