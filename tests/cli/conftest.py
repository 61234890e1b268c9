"""A tiny base on disk, a small memory made with it, and command lines run in this process."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from megacontext.cli.main import run
from megacontext.testing.model_folder import write_model_folder

FACT = "The code for Kolibri is 48213."


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def data(self):
        return json.loads(self.out)


@pytest.fixture
def megacontext(capsys, monkeypatch):
    """Run one command line; exit code, output and errors."""
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments):
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("base"), dtype="float32")


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    (folder / "facts.md").write_text(f"# Facts\n\n{FACT} It opens the vault.\n")
    prose = "".join(f"Line {number} speaks of the weather and of bread.\n" for number in range(400))
    (folder / "prose.txt").write_text(prose)
    (folder / "noise.bin").write_bytes(bytes(range(256)) * 8)
    return folder


@pytest.fixture(scope="session")
def filled_memory(tmp_path_factory, base_folder, documents):
    folder = tmp_path_factory.mktemp("filled") / "memory"
    assert run(["init", str(folder), "--base", str(base_folder), "--block-tokens", "8"]) == 0
    assert run(["ingest", str(folder), str(documents), "--label", "team=infra"]) == 0
    return folder


@pytest.fixture
def memory(filled_memory, tmp_path):
    """A memory of one's own."""
    return Path(shutil.copytree(filled_memory, tmp_path / "memory"))


@pytest.fixture
def fingerprint():
    """Everything in a folder that says what a memory holds; locks and logs are no content."""

    def digest(folder):
        from megacontext.runtime import assembly

        state = hashlib.sha256()
        with assembly.open(folder, read_only=True) as opened:
            state.update(repr([opened.sources(), opened.inspect().num_nodes]).encode())
            state.update(opened.tokens(0, opened.num_tokens).tobytes())
        for path in sorted(folder.glob("a*/**/*")) + sorted(folder.glob("raw/**/*")):
            if path.is_file():
                state.update(f"{path.relative_to(folder)}".encode() + path.read_bytes())
        return state.hexdigest()

    return digest
