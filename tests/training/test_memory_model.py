"""Learning memory: what the loss is made of, what moves, and that a short run makes gists readable."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.testing.fake_core import TINY_CORE, TINY_GIST_NET
from megacontext.training.core_model import window_loss
from megacontext.training.curriculum import BatchKind, Stage, draw_batch
from megacontext.training.gist_cuts import GistCut
from megacontext.training.loop import LoopConfig, TrainingLoop
from megacontext.training.memory_model import MemoryConfig, MemoryLearner
from megacontext.training.mixed import mixed_loss
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.rows import ALIGNED_BLOCK, aligned_row, quotes_row, strewn_row
from megacontext.training.windows import TextSource

CUT = GistCut(shapes=((32, 1),), num_tail=2)
STAGE = Stage(
    name="gists",
    batches=(
        BatchKind(name="aligned", share=0.7, rows=4, length=192, mix={"aligned": 1.0}, gists=CUT),
        BatchKind(name="short", share=0.3, rows=4, length=64, mix={"plain": 1.0}),
    ),
)
SMALL = MemoryConfig(reconstructed_tokens=128, reconstructor_width=32)


def make_learner(config: MemoryConfig = SMALL) -> MemoryLearner:
    torch.manual_seed(0)
    return MemoryLearner(Core(replace(TINY_CORE, vocab_size=512)), GistNet(TINY_GIST_NET), config)


def test_a_plain_batch_teaches_the_core_alone(source: TextSource) -> None:
    learner = make_learner()
    batch = draw_batch(source, replace(STAGE, batches=STAGE.batches[1:]), seed=0, step=0)
    loss, losses_BT = learner.loss(batch, compiled=False)
    expected = window_loss(learner.core, *batch.tensors, compiled=False)
    torch.testing.assert_close(loss, expected[0])
    torch.testing.assert_close(losses_BT, expected[1])


def test_a_mixed_batch_adds_what_gists_forget_of_their_spans(source: TextSource) -> None:
    learner = make_learner()
    batch = draw_batch(source, replace(STAGE, batches=STAGE.batches[:1]), seed=0, step=0)
    assert batch.mixed is not None
    with torch.no_grad():
        loss, _ = learner.loss(batch, compiled=False)
        read, _, gists, _ = mixed_loss(learner.core, learner.gist_net, batch.mixed, batch.tensors, compiled=False)
        # the four closed blocks of the first row are the spans in order; 128 tokens are four spans of the batch of 16
        closed = batch.ids_BT[:, :128].reshape(16, 32)[::4]
        hidden = learner.reconstructor(gists.flatten(0, 1)[::4], span_tokens=32)
        nats = torch.nn.functional.cross_entropy(learner.core.logits(hidden).flatten(0, 1), closed.flatten())
    torch.testing.assert_close(loss, read + 0.5 * nats, atol=1e-4, rtol=1e-4)


def test_places_can_be_asked_for(source: TextSource) -> None:
    learner, plain = make_learner(replace(SMALL, index=0.5)), make_learner()
    assert learner.index_head is not None
    with torch.no_grad():
        learner.core.layers[0].attention.o_proj.weight.normal_(std=0.1)  # or queries would learn nothing yet
    plain.load_state_dict(learner.state_dict(), strict=False)
    twice = make_learner(replace(SMALL, index=1.0))
    twice.load_state_dict(learner.state_dict())
    batch = draw_batch(source, replace(STAGE, batches=STAGE.batches[:1]), seed=0, step=0)
    loss, losses_BT = learner.loss(batch, compiled=False)
    first = {name: float(value) for name, value in learner.index_figures.items()}
    with torch.no_grad():
        unasked, unasked_BT = plain.loss(batch, compiled=False)
        asked_twice, _ = twice.loss(batch, compiled=False)
    torch.testing.assert_close(losses_BT.detach(), unasked_BT)
    asked = float(loss.detach() - unasked)
    assert abs(asked) > 0.01
    assert float(asked_twice - unasked) == pytest.approx(2 * asked, rel=1e-3)
    optimizer = torch.optim.Adam(learner.index_head.parameters(), lr=0.03)
    for _ in range(200):
        optimizer.zero_grad()
        learner.loss(batch, compiled=False)[0].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for kind in ("gists", "tokens"):
        assert float(learner.index_figures[f"index/{kind}_missed"]) < 0.6 * first[f"index/{kind}_missed"]
        assert float(learner.index_figures[f"index/{kind}_expected"]) > 0
    slopes = []
    for each in (learner, plain):
        each.zero_grad()
        each.loss(batch, compiled=False)[0].backward()  # type: ignore[no-untyped-call]
        slopes.append(each.core.layers[0].attention.q_proj.weight.grad)
    assert (slopes[0] - slopes[1]).norm() > 0.01 * slopes[1].norm() > 0


def test_spans_alone_teach_gist_net_and_leave_the_core(source: TextSource) -> None:
    cut = GistCut(shapes=((16, 2),), num_tail=0, spans_only=True)
    kind = BatchKind(name="spans", share=1.0, rows=2, length=64, mix={"plain": 1.0}, gists=cut)
    learner = make_learner()
    batch = draw_batch(source, Stage(name="spans", batches=(kind,)), seed=0, step=0)
    loss, losses_BT = learner.loss(batch, compiled=False)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is None for weight in learner.core.parameters())
    for net in (learner.gist_net, learner.reconstructor):
        assert all(weight.grad is not None for name, weight in net.named_parameters() if "level" not in name)
    with torch.no_grad():
        for row in range(2):
            for block in range(4):
                ids = batch.ids_BT[row, 16 * block : 16 * block + 16]
                gists = learner.gist_net(learner.core.embed(ids)[None], level=1, num_children=16, gist_width=2)
                logits = learner.core.logits(learner.reconstructor(gists, span_tokens=16))[0]
                nats = torch.nn.functional.cross_entropy(logits, ids, reduction="none")
                torch.testing.assert_close(losses_BT[row, 16 * block : 16 * block + 16], nats, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loss, losses_BT.mean(), atol=1e-4, rtol=1e-4)
    with pytest.raises(InvalidValueError, match="spans_only shows no window, but num_tail is 2"):
        GistCut(shapes=((16, 2),), num_tail=2, spans_only=True)


def test_of_many_blocks_half_state_a_fact_each(source: TextSource) -> None:
    places = set()
    for seed in range(20):
        row = aligned_row(source, Random(seed), 768, num_blocks=16)
        stated = {answer.fact: answer.evidence for answer in row.answers}
        blocks = [start // ALIGNED_BLOCK for evidence in stated.values() for start, _ in evidence]
        assert len(blocks) == len(set(blocks)) == len(stated) == 8
        assert all(
            start // ALIGNED_BLOCK == (stop - 1) // ALIGNED_BLOCK
            for evidence in stated.values()
            for start, stop in evidence
        )
        assert min(answer.start for answer in row.answers) >= 16 * ALIGNED_BLOCK
        places |= set(blocks)
    assert places == set(range(16))


def test_aligned_rows_keep_each_fact_inside_its_block(source: TextSource) -> None:
    for seed in range(20):
        row = aligned_row(source, Random(seed), 192)
        text = source.tokenizer.decode(row.tokens_T.tolist())
        assert len(row.answers) >= 1
        for answer in row.answers:
            stop = answer.start - answer.distance
            block = (stop - 1) // ALIGNED_BLOCK
            assert block < 4
            inside = source.tokenizer.decode(row.tokens_T[block * ALIGNED_BLOCK : stop].tolist())
            assert answer.fact.value in inside, text


def test_strewn_facts_cross_borders_and_are_asked_for_after_all_of_them(source: TextSource) -> None:
    num_crossing = num_facts = 0
    for seed in range(20):
        row = strewn_row(source, Random(seed), 768)
        for evidence in {answer.fact: answer.evidence for answer in row.answers}.values():
            ((start, stop),) = evidence
            assert stop <= 512
            num_facts += 1
            num_crossing += start // 32 != (stop - 1) // 32
        assert min(answer.start for answer in row.answers) >= 511
    assert num_crossing / num_facts > 0.3


def test_quotes_repeat_what_stood_before(source: TextSource) -> None:
    row = quotes_row(source, Random(5), 768)
    shown, ends = row.tokens_T[:512].tolist(), row.weights_T == 0
    begins = np.flatnonzero(ends[1:] & ends[:-1]) + 1  # a piece costs nothing at its first and at its last token
    assert begins[0] == 512
    for begin, end in pairwise(begins):
        piece = row.tokens_T[begin:end].tolist()
        assert any(shown[at : at + len(piece)] == piece for at in range(len(shown)))
    assert len(begins) > 8
    assert (row.weights_T[:511] == 1).all()


def test_a_frozen_core_stays_and_a_free_one_moves(source: TextSource) -> None:
    for frozen in (True, False):
        learner = make_learner(replace(SMALL, frozen_core=frozen))
        before = {name: weight.clone() for name, weight in learner.state_dict().items()}
        optimizer = MasterOptimizer(learner.learned_parameters(), OptimConfig())
        for step in range(3):  # what starts at zero opens the way for the rest
            batch = draw_batch(source, replace(STAGE, batches=STAGE.batches[:1]), seed=0, step=step)
            learner.loss(batch, compiled=False)[0].backward()
            optimizer.step(1.0)
        moved = {name for name, weight in learner.state_dict().items() if not torch.equal(weight, before[name])}
        assert any(name.startswith("gist_net.layers") for name in moved)
        assert any(name.startswith("core.") for name in moved) is not frozen


def test_a_short_run_learns_to_hold_tokens(source: TextSource, tmp_path: Path) -> None:
    learner = make_learner()
    loop = TrainingLoop(
        loss=lambda batch: learner.loss(batch, compiled=False),
        optimizer=MasterOptimizer(learner.learned_parameters(), OptimConfig()),
        source=source,
        stages=(STAGE,),
        config=LoopConfig(num_steps=40, seed=5, warmup_steps=4, log_every=5, checkpoint_every=1_000),
        out=tmp_path,
    )
    batch = draw_batch(source, replace(STAGE, batches=STAGE.batches[:1]), seed=9, step=0)
    with torch.no_grad():
        before = learner.loss(batch, compiled=False)[0].item()
    state = loop.run()
    with torch.no_grad():
        after = learner.loss(batch, compiled=False)[0].item()
    assert after < before - 1.0
    assert "aligned_192_gists_32_1" in state.tokens_by_row_kind


def test_nets_of_two_widths_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="gist_net has width 64, but the core 32"):
        MemoryLearner(Core(TINY_CORE), GistNet(replace(TINY_GIST_NET, width=64)), SMALL)
