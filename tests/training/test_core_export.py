"""From checkpoints of either kind of run to nets and to a base."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from megacontext.bases.core_folder import read_core_folder
from megacontext.bases.precision import working_dtype
from megacontext.bases.registry import BaseHandle, load_base
from megacontext.errors import BaseModelError, CorruptionError, InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import LensNetConfig
from megacontext.ports.base import SupportsLearnedGists, SupportsLearnedLens
from megacontext.testing.fake_core import TINY_CORE, TINY_GIST_NET
from megacontext.training.checkpoint import identity
from megacontext.training.core_export import (
    core_prefix,
    export_checkpoint,
    load_checkpoint_nets,
    load_masters,
    trained_shapes,
)
from megacontext.training.cotrained_lens import CotrainedLens, LensLearning
from megacontext.training.loop import LoopState
from megacontext.training.memory_model import MemoryConfig, MemoryLearner
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.preparation import save_tokenizer
from megacontext.training.run_logs import LARGE_BYTES
from megacontext.training.settings import Settings, read_settings

RECIPES = Path(__file__).parents[2] / "recipes" / "core"
SHAPE = dataclasses.replace(TINY_CORE, vocab_size=512)
TABLES = {"model": dataclasses.asdict(SHAPE), "gist_net": dataclasses.asdict(TINY_GIST_NET)}
SETTINGS = Settings(Path("run.toml"), TABLES)


@pytest.fixture
def learner() -> MemoryLearner:
    torch.manual_seed(0)
    return MemoryLearner(Core(SHAPE), GistNet(TINY_GIST_NET), MemoryConfig(reconstructor_width=32))


def checkpoint_of(net: torch.nn.Module) -> dict[str, dict[str, object]]:
    return {
        "optimizer": MasterOptimizer(net.named_parameters(), OptimConfig()).state_dict(),
        "state": dataclasses.asdict(LoopState(step=7, tokens=70, seconds=60.0)),
    }


def test_a_core_is_taken_over_from_either_kind_of_run(learner: MemoryLearner) -> None:
    for saved in (checkpoint_of(learner.core), checkpoint_of(learner)):
        masters = saved["optimizer"]["masters"]
        torch.manual_seed(7)
        other = Core(SHAPE)
        load_masters(other, masters, prefix=core_prefix(masters))
        assert all(torch.equal(a, b) for a, b in zip(other.parameters(), learner.core.parameters(), strict=True))


def test_a_checkpoint_of_another_shape_is_refused_and_changes_nothing(learner: MemoryLearner) -> None:
    masters = checkpoint_of(learner.core)["optimizer"]["masters"]
    smaller = Core(TINY_CORE)
    before = smaller.norm.weight.clone()
    with pytest.raises(InvalidValueError, match=r"has shape \(512, 32\), but the configuration says \(256, 32\)"):
        load_masters(smaller, masters, prefix="")
    del masters["norm.weight"]
    with pytest.raises(InvalidValueError, match=r"lacks norm\.weight"):
        load_masters(Core(SHAPE), masters, prefix="")
    assert torch.equal(smaller.norm.weight, before)


def test_an_exported_run_opens_as_a_base(learner: MemoryLearner, tokenizer: Tokenizer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    torch.save(checkpoint_of(learner), run / "checkpoint.pt")
    save_tokenizer(tokenizer, run / "data" / "tokenizer")
    stages = [
        {"batches": [{"length": 64, "gists": {"shapes": [[32, 2], [32, 1]]}}, {"length": 128}]},
        {"batches": [{"length": 96, "gists": {"shapes": [[8, 1]]}}]},
    ]
    state = export_checkpoint(run, tmp_path / "model", Settings(Path("run.toml"), {**TABLES, "stage": stages}))
    assert state["step"] == 7
    base = load_base(str(tmp_path / "model"))
    assert isinstance(base, SupportsLearnedGists)
    assert base.info.dtype == str(working_dtype(torch.device("cpu"))).removeprefix("torch.")
    assert base.info.learned_positions == 128
    assert base.info.trained_shapes == ((8, 1), (32, 1), (32, 2))
    ids = torch.arange(64).view(2, 32).numpy().astype("uint32")
    with torch.no_grad():
        net = learner.gist_net.to(torch.bfloat16)
        vectors = learner.core.to(torch.bfloat16).embed(torch.arange(64).view(2, 32))
        expected = net(vectors, level=1, num_children=32, gist_width=1)
    ours = torch.from_numpy(base.gists_of_tokens(ids, gist_width=1))
    torch.testing.assert_close(ours.float(), expected.float(), atol=0.02, rtol=0.02)


def test_what_was_taught_is_what_the_run_and_those_before_drew(
    learner: MemoryLearner, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Whatever another configuration of the same nets says."""
    first, last, model = tmp_path / "first", tmp_path / "last", tmp_path / "model"
    drawn = {
        first: [{"length": 256, "gists": {"shapes": [[16, 1]]}}],
        last: [{"length": 96, "gists": {"shapes": [[8, 1]]}}, {"length": 64}],
    }
    for run, batches in drawn.items():
        run.mkdir()
        start = {"settings": {**TABLES, "stage": [{"batches": batches}]}}
        (run / "starts.jsonl").write_text("{}\n" + json.dumps(start) + "\n")
    torch.save(checkpoint_of(learner), last / "checkpoint.pt")
    save_tokenizer(tokenizer, last / "data" / "tokenizer")
    export_checkpoint(last, model, earlier=[first])
    info = BaseHandle(str(model)).info
    assert (info.trained_shapes, info.learned_positions) == (((8, 1), (16, 1)), 256)
    export_checkpoint(last, tmp_path / "further", earlier=[model])  # a run that went on from all of that
    info = BaseHandle(str(tmp_path / "further")).info
    assert (info.trained_shapes, info.learned_positions) == (((8, 1), (16, 1)), 256)
    export_checkpoint(last, model)
    info = BaseHandle(str(model)).info
    assert (info.trained_shapes, info.learned_positions) == (((8, 1),), 96)
    for noted, line in (
        ("", "tells of no start"),
        ("[]\n", "tells of no start"),
        ('{"settings": 1}\n', "give its conf"),
    ):
        (last / "starts.jsonl").write_text(noted)
        with pytest.raises(InvalidValueError, match=line):
            export_checkpoint(last, model)
    assert BaseHandle(str(model)).info.learned_positions == 96


@pytest.fixture
def run(learner: MemoryLearner, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """Whole, with what it was started with."""
    folder = tmp_path / "run"
    save_tokenizer(tokenizer, folder / "data" / "tokenizer")
    torch.save(checkpoint_of(learner), folder / "checkpoint.pt")
    note(folder, TABLES)
    return folder


def note(run: Path, settings: object) -> None:
    run.mkdir(exist_ok=True)
    (run / "starts.jsonl").write_text(json.dumps({"settings": settings}) + "\n")


NOTED = {
    "no table": ({"model": 5}, r"starts\.jsonl: model is 5; write it as a table, \[model\]"),
    "unknown key": ({"model": {"size": 5}}, r"starts\.jsonl: \[model\] has an unknown key 'size'"),
    "width in words": ({"model": {"width": "x"}}, r"starts\.jsonl: \[model\] width is 'x'; write a whole number"),
    "no net": ({**TABLES, "gist_net": 5}, r"starts\.jsonl: gist_net is 5; write it as a table"),
    "no stages": ({**TABLES, "stage": 5}, r"starts\.jsonl: stage is 5, and has to be a list of tables"),
    "no batches": ({**TABLES, "stage": [{}]}, r"starts\.jsonl: batches of a stage is missing, and has to be a list"),
    "one batch": ({**TABLES, "stage": [{"batches": 5}]}, r"starts\.jsonl: batches of a stage is 5, and has to be a"),
    "no length": (
        {**TABLES, "stage": [{"batches": [{}]}]},
        r"starts\.jsonl: length of a batch is None; choose a whole",
    ),
    "no shapes": (
        {**TABLES, "stage": [{"batches": [{"length": 64, "gists": {"shapes": [[1, 32]]}}]}]},
        r"starts\.jsonl: gists of a batch is \{'shapes': \[\[1, 32\]\]\}, and shapes are pairs of block tokens",
    ),
}


@pytest.mark.parametrize("case", NOTED)
def test_settings_that_cannot_be_are_named_before_anything_is_written(case: str, run: Path, tmp_path: Path) -> None:
    settings, said = NOTED[case]
    note(run, settings)
    with pytest.raises(InvalidValueError, match=said):
        export_checkpoint(run, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_so_are_those_of_a_run_before(run: Path, tmp_path: Path) -> None:
    note(tmp_path / "first", {**TABLES, "stage": [{}]})
    with pytest.raises(InvalidValueError, match=r"first/starts\.jsonl: batches .* missing.*first out of --earlier"):
        export_checkpoint(run, tmp_path / "model", earlier=[tmp_path / "first"])
    export_checkpoint(run, tmp_path / "before")
    config = json.loads((tmp_path / "before" / "config.json").read_text())
    (tmp_path / "before" / "config.json").write_text(json.dumps(config | {"learned_positions": "abc"}))
    with pytest.raises(BaseModelError, match=r"before/config\.json: learned_positions is 'abc'; it is a whole number"):
        export_checkpoint(run, tmp_path / "model", earlier=[tmp_path / "before"])
    assert not (tmp_path / "model").exists()


def test_longer_rows_of_a_run_before_count_as_far_as_the_core_goes(run: Path, tmp_path: Path) -> None:
    note(tmp_path / "first", {"stage": [{"batches": [{"length": 2 * SHAPE.max_positions}]}]})
    export_checkpoint(run, tmp_path / "model", earlier=[tmp_path / "first"])
    assert BaseHandle(str(tmp_path / "model")).info.learned_positions == SHAPE.max_positions


def test_a_gist_net_is_not_left_out_without_a_word(run: Path, tmp_path: Path) -> None:
    core_alone = Settings(Path("base.toml"), {"model": TABLES["model"]})
    with pytest.raises(
        InvalidValueError, match=r"holds a GistNet, but base\.toml has no \[gist_net\]; give --config of"
    ):
        export_checkpoint(run, tmp_path / "model", core_alone)
    assert not (tmp_path / "model").exists()


def test_a_tokenizer_that_is_not_that_of_the_run_is_refused(run: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path, model = run / "data" / "tokenizer" / "tokenizer.json", tmp_path / "model"
    path.write_text("{}")
    with pytest.raises(CorruptionError, match=r"tokenizer\.json is no tokenizer \(.*\); take another copy"):
        export_checkpoint(run, model)
    larger = Tokenizer.from_str(tokenizer.to_str())
    larger.add_tokens(["a word that nobody knows"])
    larger.save(str(path))
    with pytest.raises(InvalidValueError, match="holds a tokenizer of 513 tokens, but the model knows 512; put back"):
        export_checkpoint(run, model)
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({**saved, "identity": identity({}, tokenizer, {})}, run / "checkpoint.pt")
    content = json.loads(tokenizer.to_str())
    ids = content["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    path.write_text(json.dumps(content))
    with pytest.raises(
        InvalidValueError, match=r"is not of .*tokenizer: the tokenizer is another one .*; put back that"
    ):
        export_checkpoint(run, model)
    assert not model.exists()
    tokenizer.save(str(path))
    export_checkpoint(run, model)


def test_a_lens_that_was_learned_beside_is_exported_too(tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    lens = LensNet(LensNetConfig(width=SHAPE.width))
    learner = MemoryLearner(
        Core(SHAPE),
        GistNet(TINY_GIST_NET),
        MemoryConfig(reconstructor_width=32),
        lens=CotrainedLens(lens, LensLearning()),
    )
    save_tokenizer(tokenizer, tmp_path / "data" / "tokenizer")
    torch.save(checkpoint_of(learner), tmp_path / "checkpoint.pt")
    export_checkpoint(tmp_path, tmp_path / "model", SETTINGS)  # of a file without [lens]
    assert isinstance(load_base(str(tmp_path / "model")), SupportsLearnedLens)
    found = read_core_folder(tmp_path / "model", dtype=torch.float32, device=torch.device("cpu")).lens_net
    assert found is not None
    for ours, theirs in zip(found.parameters(), lens.parameters(), strict=True):
        assert torch.equal(ours, theirs.to(torch.bfloat16).float())


def test_what_runs_told_lies_beside_the_model(learner: MemoryLearner, tokenizer: Tokenizer, tmp_path: Path) -> None:
    first, last, model = tmp_path / "first", tmp_path / "last", tmp_path / "model"
    line = json.dumps({"step": 20, "nll": 1.5}) + "\n"
    long = line * (LARGE_BYTES // len(line) + 1)
    for run in (first, last):
        run.mkdir()
        (run / "starts.jsonl").write_text(json.dumps({"step": 0, "run": run.name, "settings": TABLES}) + "\n")
    (first / "log.jsonl").write_text(line * 2)
    (last / "log.jsonl").write_text(long + '{"step": 40, "n')  # a run that is going on
    torch.save(checkpoint_of(learner), last / "checkpoint.pt")
    save_tokenizer(tokenizer, last / "data" / "tokenizer")
    for _ in range(2):  # a folder that is there is replaced
        export_checkpoint(last, model, SETTINGS, earlier=[first])
    assert gzip.decompress((model / "log.jsonl.gz").read_bytes()).decode() == long
    assert (model / "log.1.jsonl").read_text() == line * 2
    assert [json.loads((model / f"{name}.jsonl").read_text())["run"] for name in ("starts.1", "starts")] == [
        "first",
        "last",
    ]
    assert not (model / "log.jsonl").exists()
    load_base(str(model))
    with pytest.raises(InvalidValueError, match="gone is no folder"):
        export_checkpoint(last, model, SETTINGS, earlier=[tmp_path / "gone"])
    assert (model / "log.1.jsonl").exists()
    (last / "log.jsonl").unlink()  # a run that logged nothing
    export_checkpoint(last, model, SETTINGS)
    assert sorted(path.name for path in model.glob("*.jsonl*")) == ["starts.jsonl"]


def test_the_bundled_core_was_taught_what_its_recipe_draws() -> None:
    settings = read_settings(RECIPES / "memory.toml")
    assert BaseHandle("reference-core").info.trained_shapes == trained_shapes(settings.tables)


def test_settings_without_a_gist_net_give_the_core_alone(learner: MemoryLearner) -> None:
    nets = load_checkpoint_nets(checkpoint_of(learner.core), Settings(Path("base.toml"), {"model": TABLES["model"]}))
    assert nets.gist_net is None
    assert nets.core.embed_tokens.weight.dtype == torch.bfloat16
