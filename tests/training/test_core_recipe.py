"""What a configuration makes of a run: which nets there are, and what a lens that is learned beside them needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.training.conftest import TINY_MODEL

from megacontext.errors import InvalidValueError
from megacontext.training.core_recipe import build_learner
from megacontext.training.cotrained_lens import read_lens
from megacontext.training.curriculum import draw_batch
from megacontext.training.loop import TrainingLoop
from megacontext.training.optim import MasterOptimizer
from megacontext.training.plan import Plan
from megacontext.training.settings import read_settings
from megacontext.training.windows import TextSource

CONFIG = (
    TINY_MODEL
    + """max_positions = 512
[gist_net]
width = 32
num_layers = 1
num_pool_heads = 4
pool_head_dim = 8
[memory]
reconstructor_width = 32
[lens]
[loop]
num_steps = 6
log_every = 3
warmup_steps = 1
peak_tflops = 1.0
[shares]
books = 1.0
[[stage]]
name = "lens"
batches = [
    { name = "told", share = 0.7, rows = 4, length = 512, mix = { plain = 0.5, recall = 0.5 }, \
gists = { shapes = [[32, 1]], num_tail = 5, num_open = 2, variants = 2 } },
    { name = "short", share = 0.3, rows = 2, length = 64, mix = { plain = 1.0 } },
]
"""
)


def written(folder: Path, text: str = CONFIG) -> Path:
    (folder / "run.toml").write_text(text)
    return folder / "run.toml"


def test_a_run_with_a_lens_learns_it_and_logs_what_it_says(source: TextSource, tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path))
    plan, learner = Plan.read(settings), build_learner(settings, 0, compiled=False)
    learner.place(torch.device("cpu"))
    lens = learner.parts["LensNet"]
    assert {weight.dtype for weight in lens.parameters()} == {torch.float32}
    assert learner.shape["memory"]["lens"] is True
    before = [weight.detach().clone() for weight in lens.parameters()]
    optimizer = MasterOptimizer(learner.weights, plan.optim)
    assert sum(name.startswith("lens_net.") for name in optimizer.masters) == len(before)
    loop = TrainingLoop(
        loss=learner.loss,
        optimizer=optimizer,
        source=source,
        stages=plan.stages,
        config=plan.loop,
        out=tmp_path / "out",
        gauges=learner.gauges,
    )
    loop.run()
    moved = [bool((weight != was).any()) for weight, was in zip(lens.parameters(), before, strict=True)]
    assert sum(moved) >= len(moved) - 1, "all but sharpness, perhaps"
    figures = loop.meter.gauges.probe()
    assert {"agreement/plain/level_1", "correlation/plain/level_1", "swap_rate/plain", "residency/plain"} <= {*figures}


def test_a_resumed_memory_run_ends_with_the_same_bits(source: TextSource, tmp_path: Path) -> None:
    """Core, GistNet, reconstructor and lens, by windows with variants and by plain rows."""
    settings = read_settings(written(tmp_path))
    plan = Plan.read(settings)

    def loop(out: str) -> TrainingLoop:
        learner = build_learner(settings, 0, compiled=False)
        learner.place(torch.device("cpu"))
        optimizer = MasterOptimizer(learner.weights, plan.optim)
        return TrainingLoop(
            loss=learner.loss,
            optimizer=optimizer,
            source=source,
            stages=plan.stages,
            config=plan.loop,
            out=tmp_path / out,
            gauges=learner.gauges,
        )

    whole = loop("whole")
    whole.run()
    loop("parts").run(until_step=3)
    again = loop("parts")
    again.resume()
    assert again.state.step == 3
    again.run()
    assert again.state.tokens_by_row_kind == whole.state.tokens_by_row_kind
    assert {name.partition(".")[0] for name in whole.optimizer.masters} == {
        "core",
        "gist_net",
        "reconstructor",
        "lens_net",
    }
    for name, master in whole.optimizer.masters.items():
        assert torch.equal(again.optimizer.masters[name], master), name


def test_a_run_without_one_has_none(source: TextSource, tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path, CONFIG.replace("[lens]\n", "").replace(", variants = 2", "")))
    learner = build_learner(settings, 0, compiled=False)
    assert "LensNet" not in learner.parts
    assert "lens" not in learner.shape["memory"]
    loss, _ = learner.loss(draw_batch(source, Plan.read(settings).stages[0], seed=0, step=0))
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[lens]", "[lens]\nweight = 0"), r"\[lens\] weight is 0"),
        (("[lens]", "[lens]\nmeasured = -1"), r"\[lens\] measured is -1"),
        (("[lens]", "[lens]\nwieght = 1"), "unknown key 'wieght'; did you mean 'weight'"),
        ((", variants = 2", ""), "no batch has gists with variants above 1"),
        (("variants = 2", "variants = 3"), "rows is 4; with 3 variants of each row choose a multiple of 3"),
        (
            ("num_tail = 5", "num_tail = 2"),
            "no room for 64 tokens that ask and 16 after them; give num_tail at least 3",
        ),
        (("[lens]\n", ""), "batch 'told' has 2 variants of each row, which only a lens compares; add \\[lens\\]"),
    ],
)
def test_a_lens_that_cannot_be_learned_is_one_line(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=message):
        read_lens(read_settings(written(tmp_path, CONFIG.replace(*change))))


def test_a_lens_without_gists_is_refused(tmp_path: Path) -> None:
    start, stop = CONFIG.index("[gist_net]"), CONFIG.index("[lens]")
    with pytest.raises(InvalidValueError, match=r"\[lens\] chooses among gists, but there is no \[gist_net\]"):
        build_learner(read_settings(written(tmp_path, CONFIG[:start] + CONFIG[stop:])), 0)


def test_gists_that_cannot_be_read_back_are_refused_before_training(tmp_path: Path) -> None:
    text = CONFIG.replace("[lens]\n", "").replace("[[32, 1]], num_tail = 5, num_open = 2, variants = 2", "SHAPES")
    said = r"run\.toml: \[\[stage\]\] 'lens', batch 'told': shape \[256, 1\] has 256 tokens a vector, and at most 128"
    for cut in ("[[32, 1], [256, 1]], num_tail = 1", "[[256, 1]], num_tail = 0, spans_only = true"):
        with pytest.raises(InvalidValueError, match=said):
            build_learner(read_settings(written(tmp_path, text.replace("SHAPES", cut))), 0, compiled=False)
    wide = text.replace("SHAPES", "[[256, 2]], num_tail = 1")
    build_learner(read_settings(written(tmp_path, wide)), 0, compiled=False)
    unasked = text.replace("SHAPES", "[[256, 1]], num_tail = 1").replace("[memory]", "[memory]\nreconstruction = 0.0")
    build_learner(read_settings(written(tmp_path, unasked)), 0, compiled=False)
