"""Gisters by name, without loading a model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from megacontext.bases.remote.text_base import OpenAIHandle
from megacontext.errors import InvalidValueError, UnknownNameError
from megacontext.gisters.registry import GISTERS, gister_version, known_gisters, make_gister
from megacontext.testing.fake_base import BaseInMemory, tiny_base
from megacontext.testing.fake_core import tiny_core_base
from megacontext.testing.model_folder import write_model_folder

SOURCE = BaseInMemory(tiny_base())
OTHER_SOURCES = {
    "gistnet": BaseInMemory(tiny_core_base()),
    "summary": OpenAIHandle("openai:any@http://127.0.0.1:9/v1"),
}


@pytest.mark.parametrize("name", GISTERS)
def test_known_gisters_can_be_made(name: str) -> None:
    assert name in known_gisters()
    gister = make_gister(name, OTHER_SOURCES.get(name, SOURCE), block_tokens=16, gist_width=8)
    of_net = "-tiny0" if name == "gistnet" else ""  # learned gists also say of which net
    assert (gister.name, gister.version) == (name, gister_version(name) + of_net)
    assert (gister.block_tokens, gister.gist_width) == (16, 8)


def test_bad_requests_say_what_is_possible() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown gister 'nonesuch'; known: .*extractive, gistnet, mean"):
        make_gister("nonesuch", SOURCE)
    for gist_width in (0, 17):
        with pytest.raises(InvalidValueError, match="of vectors from 1 to"):
            make_gister("mean", SOURCE, block_tokens=16, gist_width=gist_width)


def test_mean_gists_of_a_folder_never_load_torch(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "model")
    program = (
        "import sys, numpy as np; from megacontext.bases.registry import BaseHandle;"
        "from megacontext.gisters.registry import make_gister;"
        "gister = make_gister('mean', BaseHandle(sys.argv[1]));"
        "gists = gister.from_tokens(np.arange(64, dtype=np.uint32), start=0, num_context=0);"
        "print(gists.vectors.shape, [name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 1, 32) []"
