"""Labels from the forward pass that is learned from: which windows a row stands in, and what their losses say."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import LensNetConfig
from megacontext.testing.fake_core import TINY_CORE, TINY_GIST_NET
from megacontext.training.cotrained_lens import CotrainedLens, LensLearning
from megacontext.training.curriculum import Batch, BatchKind, Stage, draw_batch
from megacontext.training.gist_cuts import UNJOINED, GistCut, choose_open, choose_variants
from megacontext.training.lens_labels import blocks_of_row, features_of
from megacontext.training.lens_model import lens_logits, lens_loss, looked, stacked
from megacontext.training.lens_variants import candidates, differences, variant_samples
from megacontext.training.memory_model import MemoryConfig, MemoryLearner
from megacontext.training.memory_windows import run_windows, scores_of
from megacontext.training.mixed import mixed_loss
from megacontext.training.rows import plain_row, recall_row
from megacontext.training.windows import TextSource, Window

TAIL = 5  # blocks
CUT = GistCut(shapes=((32, 1),), num_tail=TAIL, num_open=2, open_answers=0.4, variants=3)
KIND = BatchKind(name="told", share=1.0, rows=6, length=512, mix={"plain": 0.5, "recall": 0.5}, gists=CUT)
SMALL = MemoryConfig(reconstructed_tokens=64, reconstructor_width=32)


def batch_of_kind(source: TextSource, kind: BatchKind = KIND, *, step: int = 0) -> Batch:
    return draw_batch(source, Stage(name="told", batches=(kind,)), seed=0, step=step)


def batch_of_both(source: TextSource, kind: BatchKind = KIND) -> Batch:
    """The first one with moments in text and with questions."""
    drawn = (batch_of_kind(source, kind, step=step) for step in range(200))
    return next(batch for batch in drawn if {bool(some[0].evidence) for some in batch.moments if some} == {True, False})


def nats_and_states(nets: tuple[Core, GistNet], batch: Batch) -> tuple[torch.Tensor, ...]:
    assert batch.mixed is not None
    with torch.no_grad():
        _, losses_BT, gists_BCrD, tapped_BSD = mixed_loss(
            *nets, batch.mixed, batch.tensors, compiled=False, tap_layer=1
        )
    assert tapped_BSD is not None
    return losses_BT, gists_BCrD, tapped_BSD


def open_blocks(batch: Batch, num_blocks: int = 16) -> np.ndarray:
    assert batch.mixed is not None
    is_open_BN = np.ones((len(batch.ids_BT), num_blocks), dtype=np.bool_)
    np.put_along_axis(is_open_BN, batch.mixed.closed_BC.numpy(), values=False, axis=1)
    return is_open_BN


@pytest.mark.parametrize("joined", [UNJOINED, (2, 2)])
def test_windows_of_a_row_differ_and_every_block_is_closed_in_one(source: TextSource, joined: tuple[int, int]) -> None:
    for seed in range(60):
        row = recall_row(source, Random(seed), 512)
        is_open_VN = choose_variants(
            row, replace(CUT, open_answers=1.0), block_tokens=32, random=Random(seed), joined=joined
        )
        assert is_open_VN.shape == (3, 16)
        assert (is_open_VN.sum(1) == TAIL + 2).all()
        assert is_open_VN[:, -TAIL:].all()
        assert not is_open_VN[:, :-TAIL].all(0).any()
        assert not is_open_VN[:, : joined[0] * joined[1]].any()


def test_one_window_is_what_it_was(source: TextSource) -> None:
    row, cut = plain_row(source, Random(1), 512), replace(CUT, variants=1)
    (alone_N,) = choose_variants(row, cut, block_tokens=32, random=Random(2))
    assert (alone_N == choose_open(row, cut, block_tokens=32, random=Random(2))).all()


def test_a_row_stands_there_once_for_each_window(source: TextSource) -> None:
    batch = batch_of_kind(source)
    assert batch.ids_BT.shape == (6, 512)
    assert len(batch.moments) == 2
    for first in (0, 3):
        assert all(torch.equal(batch.ids_BT[first], batch.ids_BT[other]) for other in (first + 1, first + 2))
        assert len(set(batch.row_kinds[first : first + 3])) == 1
    assert not torch.equal(batch.ids_BT[0], batch.ids_BT[3])
    assert batch_of_kind(source, replace(KIND, gists=replace(CUT, variants=1))).moments == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": 0}, "variants is 0"),
        ({"num_open": 0}, "variants is 3, but num_open is 0"),
        ({"shapes": ((32, 2),)}, r"shapes are \[\(32, 2\)\]"),
    ],
)
def test_a_cut_that_cannot_be_compared_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        replace(CUT, **change)  # type: ignore[arg-type]


def test_a_batch_that_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"rows is 4; with 3 variants of each row choose a multiple of 3"):
        replace(KIND, rows=4)
    with pytest.raises(InvalidValueError, match=r"num_open is 6, but .* half of the 11 blocks .* at most 5"):
        replace(KIND, gists=replace(CUT, num_open=6))
    with pytest.raises(InvalidValueError, match=r"num_open is 4, but .* half of the 7 blocks .* at most 3"):
        replace(KIND, gists=replace(CUT, num_open=4, joins=((0, 1), (2, 2))))


def test_what_opening_a_block_saves_is_a_difference_of_means() -> None:
    is_open_VC = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]], dtype=np.bool_)
    saved_C = differences(np.array([1.0, 4.0, 6.0], dtype=np.float32), is_open_VC)
    np.testing.assert_allclose(saved_C, [np.nan, 5.0 - 1.0, 3.5 - 4.0, np.nan])


def test_drawn_at_random_differences_are_right_on_average() -> None:
    generator = np.random.default_rng(0)
    worth_C = np.array([3.0, 0.0, -1.0, 0.5, 0.0, 2.0, 0.0, 1.0])
    found = []
    for _ in range(4000):
        is_open_VC = generator.permuted(np.tile(np.arange(8) < 2, (4, 1)), axis=1)
        found.append(differences((9 - is_open_VC @ worth_C).astype(np.float32), is_open_VC))
    # where a block is open, of the seven others one is; where it is closed, two are: w - (W - w) / 7 = (8 w - W) / 7
    mean_C = np.nanmean(found, axis=0)
    np.testing.assert_allclose(mean_C - mean_C.mean(), (worth_C - worth_C.mean()) * 8 / 7, atol=0.1)


def test_candidates_are_open_where_the_token_is_known_and_nowhere_else() -> None:
    is_open_VC = np.array([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 1, 0]], dtype=np.bool_)
    known_in_first = np.array([[0.5], [4.5], [4.5], [4.5]], dtype=np.float32)
    assert candidates(known_in_first, is_open_VC).tolist() == [0, 0, 0, 0, 0], "0 and 1 are open elsewhere, too"
    known_in_two = np.array([[0.5], [0.7], [4.5], [4.5]], dtype=np.float32)
    assert candidates(known_in_two, is_open_VC).tolist() == [1, 0, 0, 0, 0]
    known_in_three = np.array([[0.5], [0.6], [0.7], [4.7]], dtype=np.float32)
    of_three_VC = np.array([[1, 1], [1, 0], [1, 1], [0, 1]], dtype=np.bool_)
    assert candidates(known_in_three, of_three_VC).tolist() == [1, 0]
    assert candidates(known_in_three[2:], of_three_VC[2:]).tolist() == [1, 0], "two windows are enough"
    few = np.array([[4.0], [4.2], [4.3], [4.3]], dtype=np.float32)
    assert candidates(few, is_open_VC).tolist() == [0, 0, 0, 0, 0], "nothing is at stake"
    one_block_each = np.eye(4, 5, dtype=np.bool_)
    two_tokens = np.array([[1.0, 4.0], [4.0, 4.0], [4.0, 3.0], [4.0, 4.0]], dtype=np.float32)
    np.testing.assert_allclose(candidates(two_tokens, one_block_each), [3 / 4, 0, 1 / 4, 0, 0])
    np.testing.assert_allclose(candidates(two_tokens[:, 1:] * 0.6, one_block_each), [0, 0, 0.6, 0, 0], atol=1e-6)
    assert candidates(np.full((4, 3), 2.0, dtype=np.float32), one_block_each).tolist() == [0, 0, 0, 0, 0]


def test_samples_are_what_these_windows_show(nets: tuple[Core, GistNet], source: TextSource) -> None:
    batch = batch_of_both(source)
    losses_BT, gists_BCrD, tapped_BSD = nats_and_states(nets, batch)
    samples = variant_samples(batch, losses_BT, gists_BCrD, tapped_BSD)
    assert len(samples) == sum(map(len, batch.moments)) > 4
    assert {bool(sample.asks) for sample in samples} == {True, False}
    core, gist_net = nets
    is_open_BN = open_blocks(batch)
    told = iter(samples)
    for row, moments in enumerate(batch.moments):
        tokens_T = batch.ids_BT[3 * row].numpy()
        targets_T, weights_T = (part_BT[3 * row].numpy() for part_BT in batch.tensors[1:])
        windows = [Window(tokens_T=tokens_T, targets_T=targets_T, weights_T=weights_T)] * 3
        is_open_VN = is_open_BN[3 * row : 3 * row + 3]
        run = run_windows(core, gist_net, windows, is_open_VN, block_tokens=32, gist_width=1, tap_layer=1)
        nats_VT = scores_of(core, run, windows).nats_BT
        assert run.tapped_BSD is not None
        made_CD = gist_net(
            core.embed(torch.from_numpy(tokens_T)[: 11 * 32].view(11, 32)), level=1, num_children=32, gist_width=1
        )[:, 0]
        for moment in moments:
            sample = next(told)
            states_QD = run.tapped_BSD[int(tokens_T.sum()) % 3, moment.query[0] - 512 :][
                : moment.query[1] - moment.query[0]
            ]
            torch.testing.assert_close(sample.query_QD, states_QD, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(sample.gists_CD, made_CD, atol=1e-5, rtol=1e-5)
            assert torch.equal(sample.features_CF, features_of(moment, num_closed=11, block_tokens=32))
            assert torch.equal(sample.blocks_CK, blocks_of_row(tokens_T, num_closed=11, block_tokens=32))
            assert sample.query_ids_Q.tolist() == tokens_T[slice(*moment.query)].tolist()
            nats_VH = nats_VT[:, slice(*moment.horizon)]
            saved_C = differences(nats_VH.sum(1), is_open_VN[:, :11])
            luck = float(torch.from_numpy(saved_C).nanmedian())
            np.testing.assert_allclose(sample.saved_LC[0], saved_C - luck, atol=1e-3)
            torch.testing.assert_close(sample.saved_LC[1], sample.saved_LC[0], equal_nan=True)
            if moment.evidence:
                assert sample.evidence_C.nonzero()[:, 0].tolist() == list(moment.evidence)
                assert sample.told_C.nonzero()[:, 0].tolist() == list(moment.told)
                assert sample.known_C.all()
            else:
                np.testing.assert_allclose(sample.evidence_C, candidates(nats_VH, is_open_VN[:, :11]), atol=1e-3)
                assert sample.known_C.tolist() == is_open_VN[:, :11].any(0).tolist()


def test_joined_blocks_say_nothing(nets: tuple[Core, GistNet], source: TextSource) -> None:
    batch = batch_of_both(source, replace(KIND, gists=replace(CUT, joins=((2, 2),))))
    text, question = (next(one for one in batch.moments if bool(one[0].evidence) == asks)[0] for asks in (False, True))
    in_joined, across, behind = (replace(question, evidence=blocks, told=()) for blocks in ((1,), (3, 4), (4, 10)))
    batch = replace(batch, moments=((text, in_joined), (across, behind)))
    of_text, of_question = variant_samples(batch, *nats_and_states(nets, batch))
    assert not of_text.asks
    assert of_question.evidence_C.tolist() == [0.5, 0, 0, 0, 0, 0, 0.5]
    for sample in (of_text, of_question):
        assert sample.gists_CD.shape[0] == sample.blocks_CK.shape[0] == sample.saved_LC.shape[1] == 7
    whole_CK = blocks_of_row(batch.ids_BT[0].numpy(), num_closed=11, block_tokens=32)
    assert torch.equal(of_text.blocks_CK, whole_CK[4:])


def learner_with_lens(*, weight: float = 0.1) -> MemoryLearner:
    torch.manual_seed(0)
    core, gist_net = Core(replace(TINY_CORE, vocab_size=512)), GistNet(TINY_GIST_NET)
    torch.manual_seed(1)
    lens_net = LensNet(LensNetConfig(width=TINY_CORE.width, num_heads=2, key_dim=16, mlp_width=16))
    torch.manual_seed(2)
    return MemoryLearner(core, gist_net, SMALL, lens=CotrainedLens(lens_net, LensLearning(weight=weight)))


def test_a_lens_learns_beside_the_others_and_moves_nothing_but_itself(source: TextSource) -> None:
    with_lens = learner_with_lens()
    without = MemoryLearner(with_lens.core, with_lens.gist_net, SMALL)
    without.load_state_dict(with_lens.state_dict(), strict=False)
    batch = batch_of_both(source)
    heavier = learner_with_lens(weight=0.3)
    losses, slopes = [], []
    for learner in (with_lens, without, heavier):
        learner.zero_grad()
        loss, _ = learner.loss(batch, compiled=False)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
        slopes.append([weight.grad.clone() for weight in learner.core.parameters() if weight.grad is not None])
    assert losses[0] > losses[1]
    assert losses[2] - losses[1] == pytest.approx(3 * (losses[0] - losses[1]), rel=1e-3)
    assert all(torch.equal(ours, theirs) for ours, theirs, _ in zip(*slopes, strict=True))
    assert with_lens.lens_net is not None
    assert all(weight.grad is not None for weight in with_lens.lens_net.parameters())
    assert with_lens.lens is not None
    assert with_lens.lens.samples


def test_a_batch_without_moments_has_gradients_of_nothing(source: TextSource) -> None:
    """In a team another process may have moments: what is averaged must be the same weights everywhere."""
    learner = learner_with_lens()
    batch = replace(batch_of_kind(source), moments=((), ()))
    learner.loss(batch, compiled=False)[0].backward()  # type: ignore[no-untyped-call]
    assert learner.lens_net is not None
    for weight in learner.lens_net.parameters():
        assert weight.grad is not None
        assert not weight.grad.any()


def test_the_lens_comes_to_say_what_the_windows_show(source: TextSource) -> None:
    learner = learner_with_lens()
    assert learner.lens is not None
    lens = learner.lens.net
    batch = batch_of_both(source)
    learner.loss(batch, compiled=False)
    batch_of_samples, seen = stacked(learner.lens.samples), stacked([looked(one) for one in learner.lens.samples])
    optimizer = torch.optim.AdamW(lens.parameters(), lr=5e-3)
    curve = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = lens_loss(lens, batch_of_samples, seen, measured=0.02)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        curve.append(float(loss.detach()))
    assert curve[-1] < 0.5 * curve[0]


def test_nobody_says_that_a_block_that_was_never_opened_is_not_needed(source: TextSource) -> None:
    """The log-loss of "nothing" is as low where the lens puts all on an unknown block as where it puts it on none."""
    learner = learner_with_lens()
    assert learner.lens is not None
    lens = learner.lens.net
    learner.loss(batch_of_both(source), compiled=False)
    sample = next(one for one in learner.lens.samples if not one.asks)
    unknown_C = torch.arange(11) == 4
    told = replace(sample, known_C=~unknown_C, evidence_C=torch.zeros(11), saved_LC=torch.full((2, 11), torch.nan))
    with torch.no_grad():
        queries, logits_C = lens_logits(lens, told)
        chances = torch.cat([queries.nothing[None], logits_C]).softmax(0)
        loss = lens_loss(lens, stacked([told]), stacked([looked(told)]), measured=0.0)
    torch.testing.assert_close(loss, -(chances[0] + chances[5]).log(), atol=1e-5, rtol=1e-5)
