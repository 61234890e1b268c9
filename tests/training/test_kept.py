"""What must outlive a stop, a start from elsewhere or an export: exact weights, frozen ones, settings, and the log."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.conftest import TINY_MODEL, tiny_nets
from transformers import AutoModelForCausalLM

from megacontext.errors import InvalidValueError, TrainingError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.shapes import CoreConfig
from megacontext.testing.fake_core import TINY_CORE, TINY_GIST_NET
from megacontext.training.base_gate import BaseGate, GateConfig
from megacontext.training.checkpoint import all_masters, same_nets, same_shape
from megacontext.training.core_recipe import build_learner
from megacontext.training.loop import LoopState
from megacontext.training.memory_model import MemoryConfig, MemoryLearner
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.reference import ReferenceConfig, build_reference, hidden_states
from megacontext.training.run_logs import drop_torn_line
from megacontext.training.settings import read_settings
from megacontext.training.starting import Beginning

RUN = (
    TINY_MODEL
    + """
[gist_net]
width = 32
num_layers = 1
num_heads = 2
mlp_width = 32
[memory]
reconstructor_width = 32
frozen_core = true
[loop]
num_steps = 4
[shares]
books = 1.0
[[stage]]
name = "gists"
batches = [{ name = "aligned", share = 1.0, rows = 2, length = 192, mix = { aligned = 1.0 }, \
gists = { shapes = [[32, 1]], num_tail = 2 } }]
"""
)


def optimizer_of(learner: object, **more: object) -> MasterOptimizer:
    return MasterOptimizer(learner.weights, OptimConfig(), **more)  # type: ignore[attr-defined,arg-type]


def saved(optimizer: MasterOptimizer, path: Path) -> Path:
    torch.save({"optimizer": optimizer.state_dict(), "state": dataclasses.asdict(LoopState())}, path)
    return path


def test_a_frozen_core_is_kept_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(RUN)
    settings = read_settings(tmp_path / "run.toml")
    first = build_learner(settings, 1, compiled=False)
    assert first.frozen
    assert all(name.startswith("core.") for name in first.frozen)
    optimizer = optimizer_of(first, frozen=first.frozen)
    assert not [name for name in optimizer.masters if name.startswith("core.")]
    path = saved(optimizer, tmp_path / "checkpoint.pt")
    again = build_learner(settings, 2, compiled=False)  # of another seed: a resumed run builds before it reads
    other = optimizer_of(again, frozen=again.frozen)
    name = "core.embed_tokens.weight"
    assert not torch.equal(again.frozen[name], first.frozen[name])
    other.load_state_dict(torch.load(path, weights_only=True)["optimizer"])
    for key, weight in again.frozen.items():
        torch.testing.assert_close(weight, first.frozen[key], msg=key)
    core = Core(settings.read("model", CoreConfig))
    Beginning.read(path).fill(core)  # and another run may start from it
    with pytest.raises(InvalidValueError, match=r"lacks core.* which is frozen; --start a new run"):
        other.load_state_dict({**optimizer.state_dict(), "frozen": {}})


def test_a_frozen_core_learns_nothing_from_rows_without_gists(tmp_path: Path) -> None:
    raw = '{ name = "raw", share = 1.0, rows = 2, length = 64, mix = { plain = 1.0 } }, { name = "aligned"'
    (tmp_path / "run.toml").write_text(RUN.replace('{ name = "aligned"', raw))
    with pytest.raises(InvalidValueError, match=r"'gists', batch 'raw' shows no gists, and \[memory\] frozen_core"):
        build_learner(read_settings(tmp_path / "run.toml"), 1, compiled=False)


def test_a_start_takes_the_masters_of_a_checkpoint_and_not_their_roundings(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(RUN.replace("frozen_core = true", ""))
    settings = read_settings(tmp_path / "run.toml")
    optimizer = optimizer_of(build_learner(settings, 1, compiled=False))
    with torch.no_grad():
        for master in optimizer.masters.values():
            master.add_(torch.full_like(master, 1e-4))
    path = saved(optimizer, tmp_path / "checkpoint.pt")
    started = build_learner(settings, 2, start=path, compiled=False)
    masters = optimizer_of(started, first=started.first).masters
    assert set(masters) == set(optimizer.masters)
    for name, master in optimizer.masters.items():
        torch.testing.assert_close(masters[name], master, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("prefix", ["", "core."])
def test_the_core_of_either_kind_of_run_begins_exactly(prefix: str) -> None:
    begin = Beginning(masters={f"{prefix}head.weight": torch.ones(2), "gist_net.up.weight": torch.zeros(1)})
    assert list(begin.first_masters(["head.weight"], core="")) == ["head.weight"]
    names = ["core.head.weight", "gist_net.up.weight", "reconstructor.up.weight"]
    found = begin.first_masters(names, core="core.")
    assert list(found) == ["core.head.weight", "gist_net.up.weight"] if prefix else ["core.head.weight"]


def test_decay_and_momentum_follow_the_configuration_of_whoever_goes_on() -> None:
    def made(config: OptimConfig) -> MasterOptimizer:
        return MasterOptimizer([("q_proj.weight", torch.nn.Parameter(torch.ones(4, 4)))], config)

    state = made(OptimConfig(matrix_decay=0.01, momentum=0.95)).state_dict()
    other = made(OptimConfig(matrix_decay=0.2, momentum=0.5))
    other.load_state_dict(state)
    (group,) = other.optimizers[0].param_groups
    assert (group["weight_decay"], group["momentum"]) == (0.2, 0.5)


def test_nets_of_another_shape_are_refused_also_where_their_weights_fit(tmp_path: Path) -> None:
    shape = {"model": dataclasses.asdict(TINY_CORE), "gist_net": dataclasses.asdict(TINY_GIST_NET)}
    other_heads = {**shape, "gist_net": {**shape["gist_net"], "num_heads": 1}}
    other_base = {**shape, "model": {**shape["model"], "rotary_base": 777.0}}
    with pytest.raises(InvalidValueError, match=r"\[gist_net\] num_heads was 2 and is 1"):
        same_shape(tmp_path / "checkpoint.pt", {"shape": shape}, {"shape": other_heads})
    same_shape(tmp_path / "checkpoint.pt", {"shape": {"model": shape["model"]}}, {"shape": shape})  # a core's run
    same_nets(tmp_path / "checkpoint.pt", {"shape": shape}, shape)
    for changed in (other_heads, other_base):
        with pytest.raises(InvalidValueError, match=r"is of other nets: .*; give --config of the run itself"):
            same_nets(tmp_path / "checkpoint.pt", {"shape": shape}, changed)


def test_a_gist_net_of_a_folder_is_not_taken_for_another(tmp_path: Path) -> None:
    _, gist_net = tiny_nets()
    begin = Beginning(path=tmp_path, gist_config=dataclasses.replace(gist_net.config, num_heads=1))
    learner = MemoryLearner(Core(TINY_CORE), GistNet(TINY_GIST_NET), MemoryConfig(reconstructor_width=32))
    with pytest.raises(InvalidValueError, match=r"num_heads is 2, but that of .* is 1; change \[gist_net\]"):
        begin.fill_memory(learner)


def test_all_masters_are_those_that_moved_and_those_that_did_not() -> None:
    one, other = torch.zeros(1), torch.ones(1)
    assert all_masters({"optimizer": {"masters": {"a": one}}}) == {"a": one}
    assert all_masters({"optimizer": {"masters": {"a": one}, "frozen": {"b": other}}}) == {"a": one, "b": other}


@pytest.mark.parametrize(("content", "left"), [(b"one\ntwo\nthr", b"one\ntwo\n"), (b"one\n", b"one\n"), (b"on", b"")])
def test_a_torn_line_of_a_log_is_cut_off(content: bytes, left: bytes, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(content)
    drop_torn_line(log)
    assert log.read_bytes() == left
    drop_torn_line(tmp_path / "none.jsonl")


@pytest.mark.parametrize("missed", [["books rise"], []])
def test_a_run_that_was_judged_is_not_measured_again(missed: list[str], tmp_path: Path) -> None:
    def never(ids_BT: torch.Tensor) -> torch.Tensor:
        raise AssertionError("it is known")

    lines = [{"step": 4, "tokens": 1}, {"step": 4, "gate/is_reached": 0.0, "gate/missed": missed}, {"step": 5}]
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    before = (tmp_path / "log.jsonl").read_bytes()
    gate = BaseGate(config=GateConfig(when_missed="stop"), logits=never, stores={}, pieces_V=[])
    if missed:
        with pytest.raises(TrainingError, match=r"as .gate. asks: books rise"):
            gate.judge(tmp_path, 4)
    else:
        assert gate.judge(tmp_path, 4) is None
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_the_reference_trains_with_the_frequencies_that_it_is_run_with(tmp_path: Path) -> None:
    """Rounded to bfloat16 they are a radian off after some hundred tokens, and an export computes them anew."""
    model = build_reference(
        ReferenceConfig(vocab_size=512, width=32, num_layers=1, head_dim=64, max_positions=4096), seed=1
    )
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    model.save_pretrained(tmp_path)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    own, theirs = model.model.rotary_emb.inv_freq, exported.model.rotary_emb.inv_freq
    assert own.dtype == torch.float32
    torch.testing.assert_close(own, theirs.float(), rtol=0, atol=0)
    rounded = own.to(torch.bfloat16).float()
    assert float(((rounded - own).abs() * 2047).max()) > 1.0, "what rounding would cost"
    ids_BT = torch.from_numpy(np.random.default_rng(0).integers(0, 512, (1, 300)))
    with torch.no_grad():
        expected = exported.model(ids_BT, use_cache=False).last_hidden_state
    torch.testing.assert_close(hidden_states(model, ids_BT), expected, rtol=0.05, atol=0.05)
