"""One model between two."""

from __future__ import annotations

import dataclasses
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from megacontext.bases.core_folder import CoreNets, read_core_folder, write_core_folder
from megacontext.bases.registry import BaseHandle
from megacontext.bases.weight_files import file_digest
from megacontext.errors import BaseModelError, InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import CoreConfig, LensNetConfig
from megacontext.testing.fake_core import TINY_CORE, TINY_GIST_NET
from megacontext.training.averaging import averaged
from megacontext.training.export import tokenizer_files
from megacontext.training.preparation import save_tokenizer

SCRIPT = Path(__file__).parents[2] / "recipes" / "core" / "average.py"
SHAPE = dataclasses.replace(TINY_CORE, vocab_size=512)
Make = Callable[..., Path]


@pytest.fixture
def make(tokenizer: Tokenizer, tmp_path: Path) -> Make:
    """A folder with nets of a seed of its own."""
    save_tokenizer(tokenizer, tmp_path / "tokenizer")

    def model(name: str, *, config: CoreConfig = SHAPE, shapes: tuple[tuple[int, int], ...] = (), gists: bool = True):
        torch.manual_seed(len(name))
        nets = CoreNets(
            core=Core(config).to(torch.bfloat16),
            gist_net=GistNet(TINY_GIST_NET).to(torch.bfloat16) if gists else None,
            lens_net=LensNet(LensNetConfig(width=config.width)).to(torch.bfloat16) if gists else None,
            learned_positions=64 * len(name),
            trained_shapes=shapes,
        )
        write_core_folder(tmp_path / name, nets, tokenizer_files(tmp_path / "tokenizer"), eos_token_id=1)
        return tmp_path / name

    return model


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    nets = read_core_folder(folder, dtype=torch.float32, device=torch.device("cpu"))
    assert nets.gist_net is not None
    parts = {"core": nets.core, "gist_net": nets.gist_net}
    return {f"{part}.{key}": w.detach() for part, net in parts.items() for key, w in net.named_parameters()}


def test_the_mean_lies_between_and_knows_what_both_were_taught(make: Make) -> None:
    one, other = make("one", shapes=((32, 1), (32, 16))), make("other", shapes=((8, 1), (32, 1)))
    assert any(not torch.equal(a, b) for a, b in zip(weights_of(one).values(), weights_of(other).values(), strict=True))
    nets = averaged(one, other, share=0.25)
    assert nets.lens_net is None, "which was taught beside one of them"
    assert nets.trained_shapes == ((8, 1), (32, 1), (32, 16))
    assert nets.learned_positions == 64 * 5
    ours, theirs = weights_of(one), weights_of(other)
    assert nets.gist_net is not None
    for name in ("core", "gist_net"):
        for key, weight in getattr(nets, name).named_parameters():
            expected = (0.75 * ours[f"{name}.{key}"] + 0.25 * theirs[f"{name}.{key}"]).bfloat16()
            assert torch.equal(weight, expected), key
    for share, folder in ((0.0, one), (1.0, other)):
        same = averaged(one, other, share=share)
        kept = weights_of(folder)
        assert all(torch.equal(weight.float(), kept[f"core.{key}"]) for key, weight in same.core.named_parameters())


def test_models_of_two_trainings_are_refused(make: Make, tmp_path: Path) -> None:
    one = make("one")
    with pytest.raises(InvalidValueError, match=r"share is 1\.5"):
        averaged(one, make("other"), share=1.5)
    deeper = make("deeper", config=dataclasses.replace(SHAPE, num_layers=SHAPE.num_layers + 1))
    with pytest.raises(InvalidValueError, match=r"num_layers of the core of .*one is \d, but that of .*deeper is \d"):
        averaged(one, deeper, share=0.5)
    plain = make("plain_core", gists=False)
    for pair in ((one, plain), (plain, one)):
        with pytest.raises(InvalidValueError, match="plain_core has no gist_net, but the other model has one"):
            averaged(*pair, share=0.5)


def test_weights_that_are_no_numbers_make_no_mean(make: Make) -> None:
    one, other = make("one"), make("other")
    file = other / "gist_net.safetensors"
    state = load_file(file)
    state["level_shift"][0, 3] = torch.nan
    save_file(state, file)
    config = json.loads((other / "config.json").read_text())
    config["weights"]["gist_net"] = file_digest(file)
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match=r"other/gist_net\.safetensors: level_shift holds NaN or infinity; copy"):
        averaged(one, other, share=0.5)


def test_the_recipe_writes_a_model_with_the_logs_of_the_second(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other, mean = make("one"), make("other"), tmp_path / "mean"
    (one / "log.jsonl").write_text("{}\n")
    (other / "log.jsonl").write_text('{"step": 1}\n')
    (other / "evaluation.json").write_text("{}")

    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["average.py", *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    run("--before", one, "--after", other, "--model", mean)
    assert (mean / "log.jsonl").read_text() == '{"step": 1}\n'
    assert not (mean / "evaluation.json").exists(), "that is of other weights"
    assert BaseHandle(str(mean)).info.gist_net
    assert "0.5 x" in capsys.readouterr().out
    before = (one / "core.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="is one of the two"):
        run("--before", one, "--after", other, "--model", one)
    assert (one / "core.safetensors").read_bytes() == before
