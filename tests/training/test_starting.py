"""What a run begins with: a checkpoint or a core hands on everything that was taught, and only to its own shape."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from tests.training.conftest import tiny_nets

from megacontext.bases.core_folder import CoreNets, read_core_folder, write_core_folder
from megacontext.bases.registry import BaseHandle
from megacontext.errors import CorruptionError, InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import FEATURES, WORD_KINDS, LensNetConfig
from megacontext.testing.fake_core import TINY_CORE, TINY_GIST_NET
from megacontext.training.core_export import load_masters, with_all_features
from megacontext.training.core_recipe import build_learner
from megacontext.training.cotrained_lens import CotrainedLens, LensLearning
from megacontext.training.loop import LoopState
from megacontext.training.memory_model import MemoryConfig, MemoryLearner
from megacontext.training.settings import read_settings
from megacontext.training.starting import Beginning

RECIPES = Path(__file__).parents[2] / "recipes" / "core"
STATE = asdict(LoopState())


def learner_of(core: Core, gist_net: GistNet) -> MemoryLearner:
    return MemoryLearner(core, gist_net, MemoryConfig(reconstructor_width=32))


@pytest.fixture
def fresh() -> MemoryLearner:
    torch.manual_seed(5)
    return learner_of(Core(TINY_CORE), GistNet(TINY_GIST_NET))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    core, gist_net = tiny_nets()
    write_core_folder(tmp_path / "model", CoreNets(core=core, gist_net=gist_net), [], eos_token_id=1)
    return tmp_path / "model"


def assert_same(found: torch.nn.Module, wanted: torch.nn.Module) -> None:
    for (name, weight), (_, expected) in zip(found.named_parameters(), wanted.named_parameters(), strict=True):
        torch.testing.assert_close(weight, expected, msg=name)


def test_a_core_hands_on_its_gist_net(folder: Path, fresh: MemoryLearner) -> None:
    begin = Beginning.read(folder)
    begin.fill(fresh.core)
    begin.fill_memory(fresh)
    core, gist_net = tiny_nets()
    assert_same(fresh.core, core)
    assert_same(fresh.gist_net, gist_net)
    assert begin.folder == folder
    assert begin.checkpoint is None


def test_a_lens_goes_on_where_one_is_learned(tmp_path: Path, fresh: MemoryLearner) -> None:
    core, gist_net = tiny_nets()
    lens = LensNet(LensNetConfig(width=TINY_CORE.width))
    write_core_folder(tmp_path / "model", CoreNets(core=core, gist_net=gist_net, lens_net=lens), [], eos_token_id=1)
    begin = Beginning.read(tmp_path / "model")
    begin.fill_memory(fresh)  # that learns none
    torch.manual_seed(6)
    config = MemoryConfig(reconstructor_width=32)
    with_lens = MemoryLearner(
        Core(TINY_CORE),
        GistNet(TINY_GIST_NET),
        config,
        lens=CotrainedLens(LensNet(LensNetConfig(width=TINY_CORE.width)), LensLearning()),
    )
    begin.fill_memory(with_lens)
    assert with_lens.lens_net is not None
    assert_same(with_lens.lens_net, lens)


def test_a_checkpoint_hands_on_the_reconstructor_too(tmp_path: Path, fresh: MemoryLearner) -> None:
    trained = learner_of(*tiny_nets())
    with torch.no_grad():
        for weight in trained.reconstructor.parameters():
            weight.normal_()
    masters = {name: weight.detach().float() for name, weight in trained.named_parameters()}
    torch.save({"optimizer": {"masters": masters}, "state": STATE}, tmp_path / "checkpoint.pt")
    begin = Beginning.read(tmp_path / "checkpoint.pt")
    begin.fill(fresh.core)
    begin.fill_memory(fresh)
    assert_same(fresh, trained)
    assert begin.checkpoint == tmp_path / "checkpoint.pt"
    assert begin.folder is None


def test_a_checkpoint_knows_the_tokenizer_of_its_run(tmp_path: Path, fresh: MemoryLearner, folder: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    masters = {name: weight.detach() for name, weight in fresh.learned_parameters()}
    torch.save({"optimizer": {"masters": masters}, "state": STATE}, run / "checkpoint.pt")
    assert Beginning.read(run / "checkpoint.pt").tokenizer is None
    (run / "data" / "tokenizer").mkdir(parents=True)
    (run / "data" / "tokenizer" / "tokenizer.json").touch()
    assert Beginning.read(run / "checkpoint.pt").tokenizer == run / "data" / "tokenizer"
    assert Beginning.read(folder).tokenizer == folder
    assert Beginning.read(None).tokenizer is None


@pytest.mark.parametrize("kind", ["checkpoint", "folder"])
def test_sigma_may_be_learned_from_now_on_but_not_forgotten(kind: str, tmp_path: Path, folder: Path) -> None:
    core, _ = tiny_nets()
    path = folder
    if kind == "checkpoint":
        path = tmp_path / "checkpoint.pt"
        masters = {f"core.{name}": weight.detach() for name, weight in core.named_parameters() if weight.requires_grad}
        assert "core.log_sigma_scale" not in masters
        torch.save({"optimizer": {"masters": masters}, "state": STATE}, path)
    learning = Core(replace(TINY_CORE, learns_sigma=True))
    Beginning.read(path).fill(learning)
    assert learning.log_sigma_scale.item() == 0
    assert_same(learning.layers, core.layers)
    with torch.no_grad():
        learning.log_sigma_scale.fill_(0.5)
    masters = {name: weight.detach() for name, weight in learning.named_parameters()}
    torch.save({"optimizer": {"masters": masters}, "state": STATE}, tmp_path / "learned.pt")
    again = Core(replace(TINY_CORE, learns_sigma=True))
    Beginning.read(tmp_path / "learned.pt").fill(again)
    assert again.log_sigma_scale.item() == 0.5
    with pytest.raises(InvalidValueError, match=r"learns_sigma is false, but .*learned\.pt has learned a factor"):
        Beginning.read(tmp_path / "learned.pt").fill(Core(TINY_CORE))


def test_nothing_changes_nothing(fresh: MemoryLearner) -> None:
    before = {name: weight.clone() for name, weight in fresh.named_parameters()}
    begin = Beginning.read(None)
    begin.fill(fresh.core)
    begin.fill_memory(fresh)
    for name, weight in fresh.named_parameters():
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize(("name", "value"), [("num_layers", 3), ("rotary_base", 77.0)])
def test_another_shape_is_refused(folder: Path, name: str, value: float) -> None:
    core = Core(replace(TINY_CORE, **{name: value}))
    with pytest.raises(InvalidValueError, match=rf"{name} is {value}, but that of .* is .*; change \[model\]"):
        Beginning.read(folder).fill(core)


def test_a_damaged_config_is_named(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(CorruptionError, match=r"config\.json is no JSON .*; take another copy"):
        Beginning.read(folder)


def test_what_is_nowhere_is_told_what_there_is(tmp_path: Path) -> None:
    said = (
        r"--start .*nope is neither a file nor a folder; give the checkpoint\.pt of a run, the folder of a model, or "
        "the name of a bundled one: reference, reference-core, reference-plain"
    )
    with pytest.raises(InvalidValueError, match=said):
        Beginning.read(tmp_path / "nope")


def test_a_config_that_is_no_table_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    with pytest.raises(CorruptionError, match=r"config\.json holds \[\]; take another copy"):
        Beginning.read(folder)


def test_weights_that_are_no_numbers_are_named(tmp_path: Path, fresh: MemoryLearner) -> None:
    masters = {name: weight.detach() for name, weight in fresh.named_parameters()}
    masters["gist_net.up.weight"][0, 0] = float("nan")
    torch.save({"optimizer": {"masters": masters}, "state": STATE}, tmp_path / "checkpoint.pt")
    with pytest.raises(CorruptionError, match=r"gist_net\.up\.weight of .*checkpoint\.pt holds values that are no num"):
        Beginning.read(tmp_path / "checkpoint.pt")


def test_another_gist_net_is_refused(folder: Path) -> None:
    learner = learner_of(Core(TINY_CORE), GistNet(replace(TINY_GIST_NET, mlp_width=16)))
    with pytest.raises(InvalidValueError, match=r"mlp_width is 16, but that of .* is 32; change \[gist_net\]"):
        Beginning.read(folder).fill_memory(learner)


def test_a_lens_that_was_told_fewer_features_goes_on_and_says_what_it_said() -> None:
    """The bundled one may be such a lens: a run that learns one begins with it."""
    torch.manual_seed(3)
    few = LensNetConfig(width=32, features=FEATURES[:6], direct=False)
    before, after = LensNet(few), LensNet(LensNetConfig(width=32))
    masters = with_all_features({f"lens_net.{name}": weight.detach() for name, weight in before.named_parameters()})
    load_masters(after, masters, prefix="lens_net.")
    asked, gists, features = torch.randn(9, 32), torch.randn(5, 32), torch.rand(5, len(FEATURES))
    with torch.no_grad():
        words = torch.rand(5, 9, WORD_KINDS)
        said = []
        for lens in (before, after):
            queries = lens.queries(asked)
            found = lens.found(queries, lens.keys(gists))
            said.append(lens(queries, found, lens.in_common(queries, words), features[:, lens.config.columns]))
    torch.testing.assert_close(*said)
    assert with_all_features(masters).keys() == masters.keys()
    assert with_all_features({"core.head.weight": asked}) == {"core.head.weight": asked}
    for name in ("match_weight", "query.weight", "word_salience.weight"):
        lacking = {key: weight for key, weight in masters.items() if key != f"lens_net.{name}"}
        with pytest.raises(InvalidValueError, match=rf"the checkpoint lacks lens_net\.{name}; start from a run of"):
            load_masters(after, with_all_features(lacking), prefix="lens_net.")


def test_a_run_that_learns_a_lens_begins_with_the_bundled_core() -> None:
    settings = read_settings(RECIPES / "memory_lens.toml")
    learner = build_learner(settings, 0, start=Path("reference-core"), compiled=False)
    lens = learner.parts["LensNet"]
    assert isinstance(lens, LensNet)
    bundled = BaseHandle("reference-core").folder
    shipped = read_core_folder(bundled, dtype=torch.float32, device=torch.device("cpu")).lens_net
    assert shipped is not None
    assert torch.equal(lens.query.weight, shipped.query.weight)
