"""Labels are real counterfactuals, and a lens learns to say what was measured."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch

from megacontext.errors import InvalidValueError
from megacontext.focus.lenses.features import lexical_scores
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import FEATURES, LensNet, LensNetConfig
from megacontext.training.lens_labels import LensSample, Moment, attribute, holders, measure, moment_of
from megacontext.training.lens_model import (
    LensTraining,
    calibration,
    hit_report,
    lens_utilities,
    strangers_of,
    train_lens,
)
from megacontext.training.memory_windows import score_windows
from megacontext.training.rows import plain_row, recall_row
from megacontext.training.windows import TextSource

LEXICAL = FEATURES.index("lexical")


def test_a_moment_is_the_last_question_that_the_tail_cannot_answer(source: TextSource) -> None:
    found = 0
    for seed in range(30):
        row = recall_row(source, Random(seed), 1024)
        moment = moment_of(row, tail_tokens=256, block_tokens=32)
        if moment is None or not row.answers:  # every question fell off the end: plain text
            continue
        found += 1
        answer = next(answer for answer in row.answers if answer.start == moment.horizon[0])
        assert moment.query == (answer.start - 31, answer.start + 1)
        assert moment.horizon == (answer.start, answer.stop)
        ((start, stop),) = answer.evidence
        assert stop <= 768
        assert moment.evidence == tuple(range(start // 32, (stop - 1) // 32 + 1))
        assert not any(other.fact == answer.fact and other.start < answer.start for other in row.answers)
    assert found > 15
    row = plain_row(source, Random(0), 1024)
    assert moment_of(row, tail_tokens=256, block_tokens=32) == Moment(query=(929, 961), horizon=(960, 1024))


def test_labels_are_what_opening_a_block_alone_saves(nets: tuple[Core, GistNet], source: TextSource) -> None:
    core, gist_net = nets
    row = plain_row(source, Random(1), 256)
    moment = moment_of(row, tail_tokens=128, block_tokens=32)
    assert moment is not None
    (sample,) = measure(core, gist_net, [(row, moment)], tail_tokens=128, num_measured=3, random=Random(0))
    ids = torch.from_numpy(row.tokens_T)
    with torch.no_grad():

        def horizon_nats(opened: int | None) -> float:
            entries, mu, sigma, at = [], [], [], 0.0
            for block in range(8):
                raw = core.embed(ids[32 * block : 32 * block + 32])
                if block >= 4 or block == opened:
                    entries.append(raw)
                    mu.extend(at + place for place in range(32))
                    sigma.extend([0.0] * 32)
                    at += 32
                else:
                    entries.append(gist_net(raw[None], level=1, num_children=32, gist_width=1)[0])
                    mu.append(at + 1.5)
                    sigma.append(4 * 12**-0.5)
                    at += 4
            mus, sigmas = torch.tensor(mu).double()[None], torch.tensor(sigma)[None]
            logits = core.logits(core(torch.cat(entries)[None], mus, sigmas).hidden_BTD)[0, -64:]
            return float(
                torch.nn.functional.cross_entropy(logits, torch.from_numpy(row.targets_T[-64:]), reduction="sum")
            )

        before = horizon_nats(None)
        expected = [(before - horizon_nats(block)) / 31 for block in sample.measured_M.tolist()]
    np.testing.assert_allclose(sample.utility_M.numpy(), expected, atol=1e-4)
    assert sample.query_QD.shape == (32, 32)
    assert sample.hidden_CD.shape == sample.gists_CD.shape == (4, 32)


def test_evidence_is_always_measured(nets: tuple[Core, GistNet], source: TextSource) -> None:
    drawn = [recall_row(source, Random(seed), 1024) for seed in range(12)]
    rows = [(row, moment) for row in drawn if (moment := moment_of(row, tail_tokens=256, block_tokens=32))][:3]
    for (_, moment), sample in zip(
        rows, measure(*nets, rows, tail_tokens=256, num_measured=6, random=Random(0)), strict=True
    ):
        assert set(moment.evidence) <= set(sample.measured_M.tolist())
        assert sample.evidence_C.nonzero()[:, 0].tolist() == list(moment.evidence)
        assert len(sample.measured_M) == 6
        assert float(sample.features_CF[:, LEXICAL].max()) == 1.0


def test_what_context_saves_goes_to_the_blocks_that_hold_the_token() -> None:
    blocks = np.array([[1, 2], [2, 3], [4, 4]])
    saved = holders(blocks, np.array([2, 3, 9, 4, 1]), np.array([1.0, 0.5, 3.0, -0.2, 0.1]))
    np.testing.assert_allclose(saved, [0.6, 1.0, 0.0])  # 9 stands nowhere; what context costs is nobody's


def test_text_is_labelled_by_what_far_context_saves(nets: tuple[Core, GistNet], source: TextSource) -> None:
    rows = [plain_row(source, Random(seed), 512) for seed in range(2)]
    samples = attribute(*nets, rows, tail_tokens=256, num_measured=4, random=Random(0))
    assert len(samples) == 2 * 3  # at 64, 128 and 192 tokens of each tail
    is_open = np.zeros((2, 16), dtype=np.bool_)
    is_open[:, 8:] = True
    nats = [
        score_windows(*nets, rows, opened, block_tokens=32, gist_width=1).nats_BT
        for opened in (is_open, np.ones_like(is_open))
    ]
    row, sample, at = rows[1], samples[4], 256 + 128
    horizon = slice(at - 1, at + 63)
    saved = holders(row.tokens_T[:256].reshape(8, 32), row.targets_T[horizon], (nats[0] - nats[1])[1, horizon])
    np.testing.assert_allclose(sample.utility_M, saved[sample.measured_M] / 31, atol=1e-5)
    np.testing.assert_allclose(sample.evidence_C, saved / max(1.0, saved.sum()), atol=1e-5)
    assert saved.argmax() in sample.measured_M.tolist()
    assert sample.query_ids_Q.tolist() == row.tokens_T[at - 32 : at].tolist()


def test_lexical_scores_prefer_rare_shared_tokens() -> None:
    blocks = np.array([[1, 1, 1, 9], [1, 2, 3, 4], [1, 5, 6, 7], [8, 8, 8, 8]])
    scores = lexical_scores(blocks, np.array([1, 2, 99]))
    assert scores.argmax() == 1
    assert scores[3] == 0
    assert scores[0] > scores[2] > 0


def made_up_samples(count: int, seed: int) -> list[LensSample]:
    """The evidence's gist is a turned copy of one query token; words in common point elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(99)))[0]
    samples = []
    for _ in range(count):
        gists, asked = torch.randn(12, 32, generator=generator), torch.randn(6, 32, generator=generator)
        answer, at, decoy = (int(torch.randint(limit, (), generator=generator)) for limit in (12, 6, 12))
        asked[at] = gists[answer] @ turn
        features = torch.zeros(12, len(FEATURES))
        features[decoy, LEXICAL] = 1.0
        evidence = torch.zeros(12)
        evidence[answer] = 1.0
        measured = torch.tensor([answer, (answer + 1) % 12, (answer + 5) % 12])
        samples.append(
            LensSample(
                query_QD=asked,
                hidden_CD=gists,
                gists_CD=gists,
                features_CF=features,
                measured_M=measured,
                utility_M=torch.tensor([0.1, 0.0, -0.01]),
                evidence_C=evidence,
                query_ids_Q=10 * decoy + torch.arange(4),
                blocks_CK=10 * torch.arange(12)[:, None] + torch.arange(4),
            )
        )
    return samples


def test_a_lens_learns_what_was_measured_and_beats_the_words() -> None:
    torch.manual_seed(0)
    lens = LensNet(LensNetConfig(width=32, num_heads=2, key_dim=16, mlp_width=16))
    config = LensTraining(num_steps=300, samples_per_step=32, rate=5e-3, num_strangers=12)
    curve = train_lens(lens, made_up_samples(2000, seed=1), config)
    assert curve[-1] < curve[0]
    held_out = made_up_samples(80, seed=2)
    report = hit_report(
        {
            "hidden": lambda sample: lens_utilities(lens, sample, kind="hidden"),
            "gist": lambda sample: lens_utilities(lens, sample, kind="gist"),
            "lexical": lambda sample: sample.features_CF[:, LEXICAL],
        },
        held_out,
    )
    assert report["lexical"]["within_1"]["accuracy"] < 0.3
    for kind in ("hidden", "gist"):
        assert report[kind]["within_1"]["accuracy"] > 0.9
    with torch.no_grad():
        said = torch.stack([lens_utilities(lens, sample, kind="gist")[sample.evidence_C > 0][0] for sample in held_out])
    assert 0.08 < float(said.mean()) < 0.12  # calibrated: 0.1 nats per entry were measured
    told = calibration(lens, held_out, kind="gist", num_bins=3)  # a third of the measured blocks hold the answer
    assert told["correlation"] > 0.8
    assert told["agreement"]["accuracy"] > 0.9
    assert [one["saved"] for one in told["bins"]] == pytest.approx([-0.005, -0.005, 0.1], abs=0.02)
    blind = calibration(LensNet(LensNetConfig(width=32, num_heads=2, key_dim=16, mlp_width=16)), held_out)
    assert blind["correlation"] < 0.5


def test_strangers_are_blocks_of_others_with_words_counted_among_all() -> None:
    samples = made_up_samples(5, seed=3)
    strangers = strangers_of(samples[0], samples[1:], 40, Random(0))
    others = torch.cat([sample.gists_CD for sample in samples[1:]])
    assert all((others == gist).all(1).any() for gist in strangers.gists_XD)
    together = torch.cat([strangers.own_CF, strangers.features_XF])[:, LEXICAL]
    assert float(together.max()) == 1.0
    decoy = int(samples[0].features_CF[:, LEXICAL].argmax())
    assert strangers.own_CF[:, LEXICAL].nonzero()[:, 0].tolist() == [decoy]
    distances = 2 ** (strangers.features_XF[:, FEATURES.index("log2_distance")] * 40)
    assert 200 < float(distances.min()) < float(distances.max()) <= 2**20


def test_a_lens_tells_strangers_apart() -> None:
    torch.manual_seed(0)
    lens = LensNet(LensNetConfig(width=32, num_heads=2, key_dim=16, mlp_width=16))
    samples = made_up_samples(800, seed=1)
    train_lens(lens, samples, LensTraining(num_steps=300, rate=5e-3, num_strangers=40))
    held_out = made_up_samples(60, seed=2)
    hits = []
    with torch.no_grad():
        for sample in held_out:
            strangers = strangers_of(sample, samples, 200, Random(0))
            matches = lens.matches(*lens.queries(sample.query_QD), lens.keys(strangers.gists_XD, kind="gist"))
            foreign = lens(matches, strangers.features_XF)
            own = lens_utilities(lens, sample, kind="gist")
            hits.append(bool(own[sample.evidence_C > 0].max() > foreign.max()))
    assert np.mean(hits) > 0.9


@pytest.mark.parametrize("change", [{"hide_lexical": 2.0}, {"num_strangers": -1}, {"num_steps": 0}])
def test_impossible_training_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match="cannot train a lens"):
        LensTraining(**change)  # type: ignore[arg-type]
