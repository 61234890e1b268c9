"""What a run says of itself: arithmetic against torch's own counter, utilisation, gists and gates."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.testing.fake_core import TINY_CORE, TINY_GIST_NET
from megacontext.training import gauges
from megacontext.training.core_model import window_loss
from megacontext.training.core_recipe import memory_gauges
from megacontext.training.curriculum import BatchKind, Stage, draw_batch
from megacontext.training.gauges import Gauges, core_flops, gist_statistics, measured_peak
from megacontext.training.gist_cuts import GistCut
from megacontext.training.loop import LoopConfig, TrainingLoop
from megacontext.training.memory_model import MemoryConfig, MemoryLearner
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.windows import TextSource

CUT = GistCut(shapes=((32, 16),), num_tail=2)  # windows of 128 entries: nothing is filled up, which nobody counts
MIXED = Stage(
    name="gists",
    batches=(BatchKind(name="aligned", share=1, rows=16, length=192, mix={"aligned": 1.0}, gists=CUT),),
)
PLAIN = Stage(name="text", batches=(BatchKind(name="short", share=1, rows=16, length=64, mix={"plain": 1.0}),))


@pytest.fixture
def learner() -> MemoryLearner:
    torch.manual_seed(0)
    return MemoryLearner(
        Core(replace(TINY_CORE, vocab_size=512)),
        GistNet(TINY_GIST_NET),
        MemoryConfig(reconstructed_tokens=1024, reconstructor_width=32),
    )


def test_the_arithmetic_of_text_is_what_torch_counts(source: TextSource, learner: MemoryLearner) -> None:
    batch = draw_batch(source, PLAIN, seed=0, step=0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # it counts no fused attention
        window_loss(learner.core, *batch.tensors, compiled=False)[0].backward()
    # torch counts no norm, and one product less for each input that needs no gradient
    assert core_flops(learner.core, batch) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_the_arithmetic_of_gists_is_what_torch_counts(source: TextSource, learner: MemoryLearner) -> None:
    batch = draw_batch(source, MIXED, seed=0, step=0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # it counts no fused attention
        learner.loss(batch, compiled=False)[0].backward()
    flops = memory_gauges(learner).flops
    assert flops is not None
    assert flops(batch) == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_gists_that_are_all_the_same_have_no_variance() -> None:
    same = torch.ones(8, 16)
    assert gist_statistics(same) == {"gist/norm": 4.0, "gist/variance": 0.0}
    apart = torch.cat([same, -same])
    assert gist_statistics(apart) == {"gist/norm": 4.0, "gist/variance": 1.0}


def test_the_log_holds_speed_utilisation_gists_and_gates(
    source: TextSource, learner: MemoryLearner, tmp_path: Path
) -> None:
    with torch.no_grad():
        learner.core.layers[1].attention.gist_bias.copy_(torch.tensor([1.0, -4.0]))
    gauges = replace(memory_gauges(learner), peak_flops=1e12)
    assert "gist/norm" not in gauges.probe()
    loop = TrainingLoop(
        loss=lambda batch: learner.loss(batch, compiled=False),
        optimizer=MasterOptimizer(learner.learned_parameters(), OptimConfig(scale_rate=0.0)),
        source=source,
        stages=(MIXED,),
        config=LoopConfig(num_steps=2, warmup_steps=1, log_every=2),
        out=tmp_path,
        gauges=gauges,
    )
    loop.run()
    record = json.loads((tmp_path / "log.jsonl").read_text())
    tokens, seconds = loop.state.tokens, loop.state.seconds
    assert record["tokens_per_second"] == pytest.approx(tokens / seconds)
    assert gauges.flops is not None
    each = gauges.flops(draw_batch(source, MIXED, seed=0, step=0))
    assert record["mfu"] == pytest.approx(2 * each / seconds / 1e12)
    assert (record["gist_gate/layer_0"], record["gist_gate/layer_1"]) == (-2.0, -1.5)
    batch = draw_batch(source, MIXED, seed=0, step=1)
    assert batch.mixed is not None
    assert 0 < record["gist/variance"] < record["gist/norm"]
    assert {"text/aligned_192_gists_32_16", "answer/aligned_192_gists_32_16"} & set(record)


def test_nobody_knows_a_peak_without_measuring_or_being_told() -> None:
    peak, source = measured_peak(torch.float32)
    assert peak > 1e6
    assert source == "measured: torch.float32 products of 1024 x 1024 at the start"
    assert Gauges().peak_flops == 0


def test_a_peak_is_the_products_of_the_time_that_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = [0.125 * number for number in range(100)]
    monkeypatch.setattr(gauges, "time", SimpleNamespace(perf_counter=partial(moments.pop, 0)))
    with FlopCounterMode(display=False) as counter:
        peak, _ = measured_peak(torch.float32)
    elapsed = 0.125 * (100 - len(moments) - 1)
    assert elapsed >= gauges.PEAK_SECONDS
    assert peak == pytest.approx((counter.get_total_flops() - 2 * 1024**3) / elapsed)  # the first only warms up
