"""Scripts that write into a model folder: what was there is kept, and what is no longer true of it is said."""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.conftest import TINY_MODEL
from tokenizers import Tokenizer

from megacontext.bases.core_folder import read_core_folder, write_lens
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import CoreConfig, GistNetConfig, LensNetConfig
from megacontext.training import held_out
from megacontext.training.loop import LoopState
from megacontext.training.memory_model import MemoryConfig, MemoryLearner
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.preparation import save_tokenizer
from megacontext.training.settings import read_settings

RECIPES = Path(__file__).parents[2] / "recipes" / "core"
CONFIG = (
    TINY_MODEL
    + """max_positions = 2048
[gist_net]
width = 32
num_layers = 1
num_pool_heads = 4
pool_head_dim = 8
[shares]
books = 1.0
[[stage]]
name = "all"
batches = [{ name = "text", share = 1.0, rows = 2, length = 64, mix = { plain = 1.0 } }]
"""
)
FIGURES = ("evaluation.json", "lens.json", "positions.json")
Script = Callable[..., None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    def run(name: str, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(RECIPES / name), run_name="__main__")

    return run


def checkpoint(run: Path, *, seed: int) -> None:
    """As a run leaves it whose nets come from a seed."""
    settings = read_settings(run / "run.toml")
    torch.manual_seed(seed)
    core, gist_net = Core(settings.read("model", CoreConfig)), GistNet(settings.read("gist_net", GistNetConfig))
    learner = MemoryLearner(core, gist_net, MemoryConfig(reconstructor_width=32))
    optimizer = MasterOptimizer(learner.named_parameters(), OptimConfig())
    state = asdict(LoopState(step=7, tokens=70, seconds=60.0))
    torch.save({"optimizer": optimizer.state_dict(), "state": state}, run / "checkpoint.pt")


@pytest.fixture
def run(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.toml").write_text(CONFIG)
    checkpoint(out, seed=0)
    save_tokenizer(tokenizer, out / "data" / "tokenizer")
    return out


def export(script: Script, run: Path, model: Path) -> None:
    script("export.py", "--out", run, "--model", model, "--config", run / "run.toml")


@pytest.fixture
def model(script: Script, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Exported, taught a lens, measured and described."""
    folder = tmp_path / "model"
    export(script, run, folder)
    write_lens(folder, LensNet(LensNetConfig(width=32)).to(torch.bfloat16))
    for name in FIGURES:
        (folder / name).write_text("{}")
    (folder / "README.md").write_text("# Mine\n")
    (folder / "LICENSE").write_text("MIT\n")
    assert capsys.readouterr().out == f"step 7, 70 tokens, 1.0 minutes -> {folder}\n"
    return folder


def sums(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_run_is_not_exported_into_itself(script: Script, run: Path) -> None:
    before = sums(run)
    with pytest.raises(SystemExit) as caught:
        export(script, run, run)
    assert caught.value.code == (
        f"export.py: {run} holds checkpoint.pt, so it is that of a run; give the model one of its own"
    )
    assert sums(run) == before


def test_a_model_exported_again_is_as_it_was(
    script: Script, run: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sums(model)
    export(script, run, model)
    assert sums(model) == before
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_an_export_says_which_figures_are_of_the_weights_before(
    script: Script, run: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(run, seed=1)
    export(script, run, model)
    assert (model / "README.md").read_text() == "# Mine\n"
    assert (model / "LICENSE").read_text() == "MIT\n"
    assert not any((model / name).exists() for name in FIGURES)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "the lens was taught beside the weights before and is gone: teach another (recipes/core/lens.py)",
        "of the weights before: evaluation.json, lens.json, positions.json, kept as *.before.json, and what README.md "
        "says of them; measure again",
    ]
    for name in ("lens.json", "positions.json"):
        (model / name).write_text("{}")
    (model / "README.md").unlink()
    export(script, run, model)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "of the weights before: evaluation.json, kept as *.before.json; measure again"
    ]


class Pool:
    """Workers without processes."""

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    map = staticmethod(map)


@pytest.fixture
def teach(monkeypatch: pytest.MonkeyPatch, run: Path, model: Path) -> Callable[..., None]:
    """``lens.py`` but for what takes long; ``meanwhile`` happens while it teaches."""
    main: Any = runpy.run_path(str(RECIPES / "lens.py"))["main"]
    lens = LensNet(LensNetConfig(width=32))

    def told(meanwhile: Callable[[], None] = lambda: None) -> None:
        def taught(*arguments: object) -> tuple[dict[str, torch.Tensor], list[float]]:
            meanwhile()
            return lens.state_dict(), [1.0]

        stubs = {
            "label_all": lambda *arguments, **more: None,
            "label_kept": lambda *arguments, **more: [],
            "teach": taught,
            "judgement": lambda *arguments: {"hits": {}},
            "report": lambda *arguments: {},
            "_workers": lambda arguments: Pool(),
        }
        for name, stub in stubs.items():
            monkeypatch.setitem(main.__globals__, name, stub)
        monkeypatch.setattr(sys, "argv", ["lens.py", "--out", str(run), "--model", str(model)])
        main()

    return told


def test_a_lens_comes_beside_the_other_nets_and_changes_none(
    teach: Callable[..., None], model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(held_out, "working_dtype", lambda device: torch.float32)  # as without bfloat16 units
    before, config = sums(model), json.loads((model / "config.json").read_text())
    teach()
    after, now = sums(model), json.loads((model / "config.json").read_text())
    assert before.keys() == after.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"config.json", "lens_net.safetensors", "lens.json"}
    assert now["weights"].pop("lens_net") != config["weights"].pop("lens_net")
    assert now == config
    assert now["dtype"] == "bfloat16"
    assert "evaluation.json: what it says of a lens (recall, wordings, text) is of the one" in capsys.readouterr().out
    assert json.loads((model / "lens.json").read_text())["hits"] == {}
    read_core_folder(model, dtype=torch.float32, device=torch.device("cpu"))


def test_a_lens_is_not_put_beside_nets_that_it_does_not_know(
    teach: Callable[..., None], script: Script, run: Path, model: Path
) -> None:
    def exported() -> None:
        checkpoint(run, seed=1)
        export(script, run, model)

    with pytest.raises(ValueError, match="was written again since its core and GistNet were read"):
        teach(exported)
    assert not (model / "lens_net.safetensors").exists()
    assert not (model / "lens.json").exists()
