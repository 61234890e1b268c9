"""Checkpoints that are damaged, of something else, or of a run that was made of something else."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from tests.small_disk import small_file_system
from tokenizers import Tokenizer

from megacontext.errors import CorruptionError, InvalidValueError, MegaContextError, StorageError
from megacontext.testing.fake_core import TINY_CORE
from megacontext.training.checkpoint import differences, identity, read_checkpoint, same_shape, write_checkpoint
from megacontext.training.core_model import build_core, window_loss
from megacontext.training.curriculum import BatchKind, Stage
from megacontext.training.loop import LoopConfig, TrainingLoop
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.tokens import TokenStore, train_tokenizer
from megacontext.training.windows import TextSource

SHAPE = replace(TINY_CORE, vocab_size=512)
STAGES = (
    Stage(name="first", min_steps=1, batches=(BatchKind(name="short", share=1, rows=2, length=64, mix={"plain": 1}),)),
    Stage(name="last", batches=(BatchKind(name="short", share=1, rows=2, length=64, mix={"plain": 1}),)),
)
Stores = dict[str, TokenStore]


def make_loop(source: TextSource, out: Path, made_of: Any, *, shape: Any = SHAPE, stages: Any = STAGES) -> TrainingLoop:
    core = build_core(shape, seed=0)
    return TrainingLoop(
        loss=lambda batch: window_loss(core, *batch.tensors, compiled=False),
        optimizer=MasterOptimizer(core.named_parameters(), OptimConfig()),
        source=source,
        stages=stages,
        config=LoopConfig(num_steps=3, warmup_steps=1),
        out=out,
        identity=made_of,
    )


@pytest.fixture
def made_of(tokenizer: Tokenizer, stores: Stores) -> Any:
    return identity({"model": asdict(SHAPE)}, tokenizer, stores)


@pytest.fixture
def run(source: TextSource, made_of: Any, tmp_path: Path) -> Path:
    """The folder of a run of two steps."""
    make_loop(source, tmp_path, made_of).run(until_step=2)
    return tmp_path


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def is_same(found: Any, expected: Any) -> bool:
    """Whether everything in one is in the other, at the same place."""
    if type(found) is not type(expected):
        return False
    if isinstance(found, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(found, dict):
        return found.keys() == expected.keys() and all(is_same(found[key], expected[key]) for key in found)
    if isinstance(found, list | tuple):
        return len(found) == len(expected) and all(map(is_same, found, expected))
    return bool(found == expected)


def assert_refuses_to_resume(loop: TrainingLoop, run: Path, said: str) -> None:
    before = digests(run)
    weights = {name: master.clone() for name, master in loop.optimizer.masters.items()}
    with pytest.raises(MegaContextError, match=said) as caught:
        loop.resume()
    assert "\n" not in str(caught.value)
    assert digests(run) == before
    assert all(torch.equal(weights[name], master) for name, master in loop.optimizer.masters.items())


def test_the_same_run_goes_on(source: TextSource, made_of: Any, run: Path) -> None:
    loop = make_loop(source, run, made_of)
    loop.resume()
    assert loop.state.step == 2
    assert loop.run().step == 3


def test_changed_data_are_named(source: TextSource, tokenizer: Tokenizer, stores: Stores, run: Path) -> None:
    ids = stores["code"].ids_N.copy()
    ids[7] += 1
    changed = identity({"model": asdict(SHAPE)}, tokenizer, {**stores, "code": replace(stores["code"], ids_N=ids)})
    count = f"{len(ids):,}"
    assert_refuses_to_resume(
        make_loop(source, run, changed), run, rf"the code tokens are others \({count} before, {count} now\)\. Restore"
    )


def test_another_domain_is_named(source: TextSource, tokenizer: Tokenizer, stores: Stores, run: Path) -> None:
    changed = identity({"model": asdict(SHAPE)}, tokenizer, {"books": stores["books"]})
    assert_refuses_to_resume(make_loop(source, run, changed), run, "the domains were books, code and are books")


def test_another_vocabulary_is_named(source: TextSource, stores: Stores, run: Path) -> None:
    other = train_tokenizer(["to be or not to be"], vocab_size=300)
    changed = identity({"model": asdict(SHAPE)}, other, stores)
    size = other.get_vocab_size()
    assert_refuses_to_resume(
        make_loop(source, run, changed), run, rf"tokenizer is another one \(of 512 tokens before, of {size} now\)"
    )


def test_another_model_table_is_named(source: TextSource, tokenizer: Tokenizer, stores: Stores, run: Path) -> None:
    shape = replace(SHAPE, num_layers=3, rotary_base=500.0)
    changed = identity({"model": asdict(shape)}, tokenizer, stores)
    said = r"\[model\] num_layers was 2 and is 3; \[model\] rotary_base was 10000.0 and is 500.0"
    assert_refuses_to_resume(make_loop(source, run, changed, shape=shape), run, said)
    with_gists = identity({"model": asdict(SHAPE), "gist_net": {}}, tokenizer, stores)
    assert_refuses_to_resume(make_loop(source, run, with_gists), run, r"table \[gist_net\] was not there and is now")


def test_a_checkpoint_without_identity_is_resumed(source: TextSource, made_of: Any, run: Path) -> None:
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    del saved["identity"]
    torch.save(saved, run / "checkpoint.pt")
    loop = make_loop(source, run, made_of)
    loop.resume()
    loop.run()
    assert torch.load(run / "checkpoint.pt", weights_only=True)["identity"] == made_of


def test_and_its_shapes_are_compared_all_the_same(source: TextSource, run: Path) -> None:
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    del saved["identity"]
    torch.save(saved, run / "checkpoint.pt")
    wider = replace(SHAPE, mlp_width=96)
    assert_refuses_to_resume(
        make_loop(source, run, {}, shape=wider), run, r"mlp.gate.weight is \(64, 32\) .* and \(96, 32\) in"
    )
    fewer = replace(SHAPE, num_layers=1)
    assert_refuses_to_resume(
        make_loop(source, run, {}, shape=fewer), run, "holds layers.1.attention.*which the configuration"
    )


def test_an_optimizer_of_other_groups_is_named(source: TextSource, made_of: Any, run: Path) -> None:
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    saved["optimizer"]["optimizers"][1]["param_groups"][0]["params"].append(99)
    torch.save(saved, run / "checkpoint.pt")
    before = digests(run)
    with pytest.raises(
        InvalidValueError, match="written by a version that groups weights for the optimiser in another"
    ):
        make_loop(source, run, made_of).resume()
    assert digests(run) == before


def test_a_stage_that_is_no_more_is_named(source: TextSource, made_of: Any, run: Path) -> None:
    assert_refuses_to_resume(
        make_loop(source, run, made_of, stages=STAGES[:1]), run, "in stage 2, but the configuration has 1"
    )


def test_a_cut_checkpoint_is_refused(source: TextSource, made_of: Any, run: Path) -> None:
    whole = (run / "checkpoint.pt").read_bytes()
    for share in (0.0, 0.1, 0.5, 0.99):
        (run / "checkpoint.pt").write_bytes(whole[: int(share * len(whole))])
        assert_refuses_to_resume(make_loop(source, run, made_of), run, "cut off or no checkpoint .*take another")


def test_no_flipped_byte_goes_unnoticed(made_of: Any, run: Path) -> None:
    """Whatever byte is flipped, either the file is refused, or the byte did not matter and the same comes back."""
    whole = (run / "checkpoint.pt").read_bytes()
    expected = read_checkpoint(run / "checkpoint.pt")
    refused = 0
    random = Random(0)
    for place in sorted(random.sample(range(len(whole)), 150)):
        content = bytearray(whole)
        content[place] ^= 1 << random.randrange(8)
        (run / "checkpoint.pt").write_bytes(content)
        try:
            found = read_checkpoint(run / "checkpoint.pt")
        except CorruptionError:
            refused += 1
        else:
            assert is_same(found, expected), place
    assert refused > 75


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(CorruptionError, match="is no checkpoint of a training run: it lacks the optimiser"):
        read_checkpoint(tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CorruptionError, match="cut off or no checkpoint"):
        read_checkpoint(tmp_path / "text.pt")
    with pytest.raises(InvalidValueError, match="is no file"):
        read_checkpoint(tmp_path / "gone.pt")


def put(place: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Another value at a place in a checkpoint, or none."""
    *above, last = place.split("/")

    def change(saved: dict[str, Any]) -> None:
        for name in above:
            saved = saved[int(name) if isinstance(saved, list) else name]
        if value is None:
            del saved[last]
        else:
            saved[last] = value

    return change


HEAD = "optimizer/masters/head.weight"
UNTRUE = {
    "no step": (put("state/step", None), "state.step is missing, and has to be a whole number of at least 0"),
    "no state": (lambda saved: saved["state"].clear(), "state.step is missing"),
    "step below zero": (put("state/step", -5), "state.step is -5, and has to be a whole number of at least 0"),
    "step in words": (put("state/step", "three"), "state.step is 'three', and"),
    "a flag for a step": (put("state/stage_step", True), "state.stage_step is True"),
    "no seconds": (put("state/seconds", math.nan), "state.seconds is nan, and has to be a finite number of at least 0"),
    "no counts": (put("state/tokens_by_row_kind", {"plain": 0.5}), "state.tokens_by_row_kind is .*, and has to be a t"),
    "no losses": (put("state/gate_nlls", 5), "state.gate_nlls is 5, and has to be a list of numbers"),
    "no ends": (put("state/stage_ends", [5]), r"state.stage_ends is \[5\], and has to be a list of tables"),
    "seed in words": (put("given_seed", "three"), "given_seed is 'three', and has to be none or a whole number"),
    "no time": (put("given_minutes", 0), "given_minutes is 0, and has to be none or a finite number above 0"),
    "no figures": (put("recent", {"nll": 5}), "recent is {'nll': 5}, and has to be a table of figures"),
    "whole numbers for weights": (
        put(HEAD, torch.zeros(512, 32, dtype=torch.int32)),
        "optimizer.masters.head.weight is a tensor of int32, and has to be a tensor of floating point",
    ),
    "text for weights": (put(HEAD, "abc"), "optimizer.masters.head.weight is 'abc', and"),
    "frozen text": (put("optimizer/frozen", {"core": "abc"}), "optimizer.frozen.core is 'abc', and"),
    "weights that are no numbers": (
        put(HEAD, torch.full((512, 32), math.nan)),
        "head.weight of .*checkpoint.pt holds values that are no numbers; take another checkpoint",
    ),
    "moments that are no numbers": (
        lambda saved: saved["optimizer"]["optimizers"][0]["state"][0]["momentum_buffer"].fill_(math.inf),
        "momentum_buffer 0 of optimiser 0 of .*checkpoint.pt holds values that are no numbers",
    ),
    "no optimisers": (put("optimizer/optimizers", 5), "optimizer.optimizers is 5, and has to be a list of tables"),
    "no groups": (put("optimizer/optimizers/0/param_groups", [5]), r"optimizers.0.param_groups is \[5\], and"),
    "no moments": (put("optimizer/optimizers/1/state", None), "optimizers.1.state is missing, and has to be a table"),
    "no identity": (put("identity", 5), "identity is 5, and has to be a table"),
    "no shape": (put("identity/shape", 5), "identity.shape is 5, and has to be a table of tables"),
    "no tokenizer": (put("identity/tokenizer", "abc"), "identity.tokenizer is 'abc', and has to be a table"),
    "no digest": (put("identity/data/books/digest", None), "identity.data.books.digest is missing, and has to be text"),
}


@pytest.mark.parametrize("case", UNTRUE)
def test_what_no_run_wrote_is_named(case: str, source: TextSource, made_of: Any, run: Path) -> None:
    """Also where the file itself is whole."""
    change, said = UNTRUE[case]
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    change(saved)
    torch.save(saved, run / "checkpoint.pt")
    with pytest.raises(CorruptionError, match=rf"{said}.*or start again$"):
        read_checkpoint(run / "checkpoint.pt")
    assert_refuses_to_resume(make_loop(source, run, made_of), run, said)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(path, {"step": 1})
    (tmp_path / "checkpoint.partial").mkdir()
    (tmp_path / "checkpoint.partial" / "in the way").touch()
    with pytest.raises(StorageError, match="the checkpoint before is as it was: make room"):
        write_checkpoint(path, {"step": 2})
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_a_full_disk_keeps_the_checkpoint_before(source: TextSource, made_of: Any, tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", size="4m") as small:
        loop = make_loop(source, small, made_of)
        loop.run(until_step=2)
        before = digests(small)
        room = 4 << 20
        (small / "filler").write_bytes(b"x" * (room - sum(path.stat().st_size for path in small.iterdir()) - 100_000))
        said = r"checkpoint.pt could not be written \(no space left\).*make room .* then --resume"
        with pytest.raises(StorageError, match=said):
            loop.save()
        (small / "filler").unlink()
        assert digests(small) == before
        again = make_loop(source, small, made_of)
        again.resume()
        assert again.run().step == 3


def test_only_what_weights_are_made_of_counts_for_a_start(tokenizer: Tokenizer, stores: Stores, made_of: Any) -> None:
    longer = identity({"model": asdict(replace(SHAPE, max_positions=9_999)), "gist_net": {"width": 32}}, tokenizer, {})
    same_shape(Path("base.pt"), made_of, longer)
    same_shape(Path("base.pt"), {}, longer)
    wider = identity({"model": asdict(replace(SHAPE, width=64))}, tokenizer, stores)
    with pytest.raises(InvalidValueError, match=r"base.pt cannot be started from: \[model\] width was 32 and is 64"):
        same_shape(Path("base.pt"), made_of, wider)
    other = identity({"model": asdict(SHAPE)}, train_tokenizer(["to be"], vocab_size=300), stores)
    with pytest.raises(InvalidValueError, match="the tokenizer is another one"):
        same_shape(Path("base.pt"), made_of, other)
    ids = np.zeros(3, np.uint16)
    new_data = identity({"model": asdict(SHAPE)}, tokenizer, {"books": replace(stores["books"], ids_N=ids)})
    same_shape(Path("base.pt"), made_of, new_data)
    assert differences(made_of, new_data)
