"""A core on disk: what was written comes back, and whatever is wrong with a folder is said in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from megacontext.bases.core_folder import CoreNets, read_core_folder, write_core_folder, write_lens
from megacontext.bases.registry import BaseHandle, load_base
from megacontext.bases.weight_files import file_digest
from megacontext.errors import BaseModelError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import LensNetConfig
from megacontext.ports.base import SupportsLearnedGists
from megacontext.testing.fake_core import TINY_CORE, TINY_GIST_NET

BUNDLED_TOKENIZER = BaseHandle("reference").folder / "tokenizer.json"


@pytest.fixture
def nets() -> CoreNets:
    torch.manual_seed(0)
    core = Core(replace(TINY_CORE, vocab_size=4096))
    return CoreNets(core=core, gist_net=GistNet(TINY_GIST_NET), lens_net=LensNet(LensNetConfig(width=32)))


@pytest.fixture
def folder(tmp_path: Path, nets: CoreNets) -> Path:
    made = tmp_path / "core"
    write_core_folder(made, nets, [BUNDLED_TOKENIZER], eos_token_id=1)
    return made


def test_every_net_comes_back_to_the_bit(folder: Path, nets: CoreNets) -> None:
    found = read_core_folder(folder, dtype=torch.float32, device=torch.device("cpu"))
    for name in ("core", "gist_net", "lens_net"):
        ours, theirs = getattr(nets, name).state_dict(), getattr(found, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert found.core.config == nets.core.config


def test_a_lens_of_an_older_shape_does_not_stand_in_the_way_of_a_new_one(folder: Path, nets: CoreNets) -> None:
    (folder / "lens_net.safetensors").unlink()
    found = read_core_folder(folder, dtype=torch.float32, device=torch.device("cpu"), with_lens=False)
    assert found.lens_net is None
    assert found.gist_net is not None
    with pytest.raises(BaseModelError, match=r"lens_net\.safetensors: is missing"):
        read_core_folder(folder, dtype=torch.float32, device=torch.device("cpu"))
    edit_config(folder, lambda config: config["lens_net"].update(word_kinds=2))
    assert read_core_folder(folder, dtype=torch.float32, device=torch.device("cpu"), with_lens=False).gist_net
    with pytest.raises(BaseModelError, match=r"lens_net has an impossible shape: .*; make a new lens"):
        read_core_folder(folder, dtype=torch.float32, device=torch.device("cpu"))
    write_lens(folder, LensNet(LensNetConfig(width=32)))
    assert read_core_folder(folder, dtype=torch.float32, device=torch.device("cpu")).lens_net


def test_a_folder_is_a_base_like_any_other(folder: Path, nets: CoreNets) -> None:
    base = load_base(str(folder))
    assert isinstance(base, SupportsLearnedGists)
    assert (base.info.dim, base.info.vocab_size, base.info.max_positions) == (32, 4096, 4096)
    assert base.info.stop_token_ids == (1,)
    ids = np.arange(10, dtype=np.uint32)
    ours = base.forward(base.embed(ids), np.arange(10.0), base.new_cache(10), num_logits=10)
    with torch.no_grad():
        entries = nets.core.embed(torch.arange(10)[None])
        hidden = nets.core(entries, torch.arange(10).double()[None], torch.zeros(1, 10)).hidden_BTD
    torch.testing.assert_close(ours, nets.core.logits(hidden)[0])


def test_facts_are_known_without_reading_the_model(folder: Path, nets: CoreNets, tmp_path: Path) -> None:
    info = BaseHandle(str(folder)).info
    other = tmp_path / "other"
    torch.manual_seed(1)
    write_core_folder(other, replace(nets, gist_net=GistNet(TINY_GIST_NET)), [BUNDLED_TOKENIZER], eos_token_id=1)
    retrained = BaseHandle(str(other)).info
    assert len(info.gist_net) == 64
    assert retrained.gist_net != info.gist_net  # so that gists of the two are never mixed
    assert retrained.fingerprint == info.fingerprint


def test_what_gists_were_taught_with_is_told_and_changes_no_memory(nets: CoreNets, folder: Path) -> None:
    before = BaseHandle(str(folder)).info
    assert before.trained_shapes == ()
    shapes = ((32, 4), (8, 1))
    write_core_folder(folder, replace(nets, trained_shapes=shapes), [BUNDLED_TOKENIZER], eos_token_id=1)
    after = BaseHandle(str(folder)).info
    assert after == replace(before, trained_shapes=((8, 1), (32, 4)))  # so memories that were made before still open
    read = read_core_folder(folder, dtype=torch.float32, device=torch.device("cpu"))
    assert read.trained_shapes == after.trained_shapes


def test_writing_again_replaces_the_folder_whole(folder: Path, nets: CoreNets) -> None:
    again = CoreNets(core=nets.core, learned_positions=64)
    write_core_folder(folder, again, [BUNDLED_TOKENIZER], eos_token_id=1)
    assert read_core_folder(folder, dtype=torch.float32, device=torch.device("cpu")).learned_positions == 64
    assert BaseHandle(str(folder)).info.learned_positions == 64
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "core.safetensors", "tokenizer.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["core"]


def edit_config(folder: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def flip(folder: Path) -> None:
    data = bytearray((folder / "gist_net.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "gist_net.safetensors").write_bytes(data)


def cut(folder: Path) -> None:
    data = (folder / "core.safetensors").read_bytes()
    (folder / "core.safetensors").write_bytes(data[: len(data) // 2])


def lose_a_tensor(folder: Path) -> None:
    edit_weights(folder, lambda state: state.pop("norm.weight"))


def other_vocabulary(folder: Path) -> None:
    edit_weights(
        folder, lambda state: state.update({"embed_tokens.weight": state["embed_tokens.weight"][:4000].clone()})
    )


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], net: str = "core") -> None:
    """The file is named as it is then, so that what is in it is looked at."""
    file = folder / f"{net}.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)
    edit_config(folder, lambda config: config["weights"].update({net: file_digest(file)}))


def no_number(tensor: str, net: str, value: float = torch.nan) -> Callable[[Path], object]:
    return lambda folder: edit_weights(folder, lambda state: state[tensor].view(-1)[-1:].fill_(value), net)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, r"gist_net\.safetensors: is not the file that config\.json names"),
        (cut, r"core\.safetensors: is not the file that config\.json names"),
        (lose_a_tensor, r"core\.safetensors: lacks the tensor norm\.weight"),
        (other_vocabulary, r"embed_tokens\.weight has shape \(4000, 32\), but config\.json says \(4096, 32\)"),
        (
            no_number("layers.1.mlp.up.weight", "core"),
            r"core\.safetensors: layers\.1\.mlp\.up\.weight holds NaN or inf",
        ),
        (no_number("log_sigma_scale", "core"), r"core\.safetensors: log_sigma_scale holds NaN or infinity; copy the"),
        (no_number("pool_out.weight", "gist_net", torch.inf), r"gist_net\.safetensors: pool_out\.weight holds NaN"),
        (no_number("up.bias", "lens_net"), r"lens_net\.safetensors: up\.bias holds NaN or infinity; copy the folder"),
        (lambda f: (f / "lens_net.safetensors").unlink(), r"lens_net\.safetensors: is missing"),
        (lambda f: (f / "core.safetensors").unlink(), r"core\.safetensors: is missing; copy the folder again"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json: not readable"),
        (
            lambda f: edit_config(f, lambda c: c["core"].update(num_wings=2)),
            r"core has an unknown key 'num_wings'; known",
        ),
        (lambda f: edit_config(f, lambda c: c["core"].update(num_heads=3)), r"core has an impossible shape: num_heads"),
        (lambda f: edit_config(f, lambda c: c["core"].update(width="x")), r"core has an impossible shape"),
        (lambda f: edit_config(f, lambda c: c.pop("core")), r"describes no core"),
        (lambda f: edit_config(f, lambda c: c.update(core=None)), r"describes no core with its width"),
        (lambda f: edit_config(f, lambda c: c.update(lens_net=None)), r"describes no lens_net with its width"),
        (lambda f: edit_config(f, lambda c: c["core"].pop("width")), r"describes no core with its width"),
        (lambda f: edit_config(f, lambda c: c["gist_net"].update(width=64)), r"gist_net|shape"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(BaseModelError, match=message) as error:
        read_core_folder(folder, dtype=torch.float32, device=torch.device("cpu"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: edit_config(f, lambda c: c.update(vocab_size=4000)),
            "vocab_size is 4000, but vocab_size of its core",
        ),
        (lambda f: edit_config(f, lambda c: c.update(max_position_embeddings=-1)), "max_position_embeddings is -1"),
        (lambda f: edit_config(f, lambda c: c.update(dtype="int8")), "dtype is 'int8'"),
        (lambda f: edit_config(f, lambda c: c.update(num_wings=2)), "has an unknown key 'num_wings'"),
        (lambda f: edit_config(f, lambda c: c.update(weights={})), r"core\.safetensors is missing under weights"),
        (lambda f: edit_config(f, lambda c: c.update(weights=3)), "weights is 3; it gives the sha256"),
        (lambda f: edit_config(f, lambda c: c.pop("gist_net")), "weights names 'gist_net', which it does not describe"),
        (lambda f: (f / "config.json").write_text("[]"), r"config\.json: holds \[\]; copy"),
        (
            lambda f: edit_config(f, lambda c: c["core"].update(num_heads=3)),
            r"config\.json: core has .*: num_heads is 3",
        ),
        (
            lambda f: edit_config(f, lambda c: c["core"].update(mlp_width=10**18)),
            r"has shape \(64, 32\), but .* says \(",
        ),
        (lambda f: edit_config(f, lambda c: c["lens_net"].update(features=5)), r"lens_net has .*: features is 5; give"),
        (lose_a_tensor, r"core\.safetensors: lacks the tensor norm\.weight; use"),
        (
            lambda f: edit_weights(f, lambda state: state.update(wing=torch.zeros(2))),
            r"core\.safetensors: has a tensor that the net does not know: wing; use",
        ),
        (
            lambda f: edit_weights(f, lambda state: state.update({"norm.weight": torch.ones(32, dtype=torch.int8)})),
            r"core\.safetensors: norm\.weight is stored as I8; use one of BF16, F16, F32",
        ),
    ],
)
def test_a_folder_that_cannot_be_true_is_refused_whoever_reads_it(
    folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)
    with pytest.raises(BaseModelError, match=message):
        read_core_folder(folder, dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(BaseModelError, match=message) as error:
        _ = BaseHandle(str(folder)).info  # as `init` asks, which loads nothing
    assert "\n" not in str(error.value)


def test_a_config_of_another_vocabulary_than_the_weights_is_refused_unloaded(folder: Path) -> None:
    def shrink(config: dict[str, dict[str, object]]) -> None:
        config.update(vocab_size=4000)
        config["core"].update(vocab_size=4000)

    edit_config(folder, shrink)
    with pytest.raises(BaseModelError, match=r"config\.json: vocab_size is 4000, but the embedding has 4096 rows; use"):
        _ = BaseHandle(str(folder)).info


def test_nets_of_another_width_are_refused(folder: Path, nets: CoreNets, tmp_path: Path) -> None:
    other = tmp_path / "wide"
    wide = GistNet(replace(TINY_GIST_NET, width=64))
    write_core_folder(other, replace(nets, gist_net=wide), [BUNDLED_TOKENIZER], eos_token_id=1)
    with pytest.raises(BaseModelError, match="its gist_net has width 64, but its core 32"):
        read_core_folder(other, dtype=torch.float32, device=torch.device("cpu"))


def test_a_half_written_folder_is_not_taken_for_one(folder: Path, nets: CoreNets) -> None:
    before = (folder / "config.json").read_bytes()
    with pytest.raises(FileNotFoundError):
        write_core_folder(folder, CoreNets(core=nets.core), [folder / "nothing.json"], eos_token_id=1)
    assert (folder / "config.json").read_bytes() == before
    assert (folder / "gist_net.safetensors").exists()
    shutil.rmtree(folder.with_name("core.partial"))


def test_weights_may_be_read_by_whoever_may_read_the_rest(folder: Path) -> None:
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    (folder / "new").touch()
    assert modes == {(folder / "new").stat().st_mode & 0o777}
