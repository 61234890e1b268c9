"""The bundled core: it answers from its window, reads its own gists, and its lens finds what is asked for.

Bounds are loose: what the nets reach is measured by recipes/core/evaluate.py and stands in the card.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from importlib.resources import files
from pathlib import Path
from random import Random

import pytest
import torch
from tokenizers import Tokenizer

from megacontext.bases.core_folder import CoreNets, read_core_folder
from megacontext.bases.registry import BaseHandle
from megacontext.errors import BaseModelError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.runtime import assembly
from megacontext.training.corpus import read_standard_library
from megacontext.training.lens_labels import label
from megacontext.training.lens_model import hit_report, lens_utilities
from megacontext.training.memory_scoring import recall_in_windows
from megacontext.training.moments import moments_of
from megacontext.training.recall import Asking
from megacontext.training.rows import puzzle_row, recall_row
from megacontext.training.tokens import encode_documents
from megacontext.training.windows import TextSource

FOLDER = Path(str(files("megacontext.bases"))) / "bundled" / "reference-core"
LARGEST_BYTES = 25_000_000
HELD_OUT_CODES = Asking(test=True, key="code", product=True)


@pytest.fixture(scope="module")
def nets() -> tuple[Core, GistNet, LensNet]:
    found: CoreNets = read_core_folder(FOLDER, dtype=torch.float32, device=torch.device("cpu"))
    assert found.gist_net is not None
    assert found.lens_net is not None
    return found.core, found.gist_net, found.lens_net


@pytest.fixture(scope="module")
def unseen() -> TextSource:
    """Packages of the standard library that training left out."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    packages = [
        page for page in read_standard_library(held_out=True) if page.name.endswith(("asyncio", "email", "http"))
    ]
    return TextSource(tokenizer, {"code": encode_documents(tokenizer, packages)}, {"code": 1.0})


def test_the_folder_is_small_and_says_what_it_is() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < LARGEST_BYTES
    info = BaseHandle("reference-core").info
    assert info.has_lens
    assert info.gist_net
    assert info.positions == "timeline"
    report = json.loads((FOLDER / "evaluation.json").read_text())
    card = (FOLDER / "README.md").read_text()
    assert f"{report['run']['tokens']:,}" in card
    assert f"{report['plain']['validation']['books']['bits_per_byte']:.3f}" in card


def test_it_reads_its_own_gists_and_nobody_elses(nets: tuple[Core, GistNet, LensNet], unseen: TextSource) -> None:
    core, gist_net, _ = nets
    rows = [recall_row(unseen, Random(seed), 2048, HELD_OUT_CODES) for seed in range(24)]
    report = recall_in_windows(core, gist_net, rows, budgets=(256,))
    nats = {way: float(entry["answer_nats"]) for way, entry in report.items()}  # type: ignore[arg-type]
    assert nats["full"] < 0.6
    assert nats["256/oracle/real"] < 0.6
    assert nats["256/gists/real"] < 0.4 * nats["256/recency"]
    assert nats["256/gists/shuffled"] > 0.9 * nats["256/recency"]
    most = nats["256/recency"] - nats["full"]
    for way in ("256/gists/real", "256/gists/shuffled", "256/oracle/real"):
        assert report[way]["closure"] == pytest.approx((nats["256/recency"] - nats[way]) / most, abs=1e-3), way


def test_its_lens_finds_most_answers_within_four(nets: tuple[Core, GistNet, LensNet], unseen: TextSource) -> None:
    core, gist_net, lens_net = nets
    drawn = (puzzle_row(unseen, Random(seed), 2048, test=True) for seed in range(48))
    rows = [(row, moments) for row in drawn if (moments := moments_of(row, tail_tokens=320, block_tokens=32))]
    samples = label(core, gist_net, rows, tail_tokens=320, measured=False)
    hits = hit_report({"lens": partial(lens_utilities, lens_net)}, samples)["lens"]
    assert hits["within_1"]["accuracy"] > 0.7  # by chance: a few hundredths
    assert hits["within_4"]["accuracy"] > 0.9


def test_no_memory_is_made_with_a_damaged_copy(tmp_path: Path) -> None:
    """It could not be opened with the right file."""
    copy = tmp_path / "model"
    shutil.copytree(FOLDER, copy)
    content = bytearray((copy / "core.safetensors").read_bytes())
    content[200_000] ^= 1
    (copy / "core.safetensors").write_bytes(content)
    with pytest.raises(BaseModelError, match=r"core\.safetensors: is not the file that config\.json names"):
        assembly.create(tmp_path / "memory", base=copy)
    assert not (tmp_path / "memory").exists()
    shutil.copy(FOLDER / "core.safetensors", copy)
    assembly.create(tmp_path / "memory", base=copy).close()
