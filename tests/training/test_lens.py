"""Labels are real counterfactuals, and a lens learns to say what was measured."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch

from megacontext.errors import InvalidValueError
from megacontext.focus.lenses.features import lexical_scores, word_features
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import FEATURES, LensNet, LensNetConfig
from megacontext.training.lens_labels import QUERY_TOKENS, LensSample, label, moments_of
from megacontext.training.lens_model import (
    LensTraining,
    calibration,
    hit_report,
    lens_utilities,
    looked,
    train_lens,
    words_lens,
)
from megacontext.training.rows import plain_row, recall_row
from megacontext.training.windows import TextSource

LEXICAL = FEATURES.index("lexical")


def test_moments_are_the_questions_that_the_tail_cannot_answer(source: TextSource) -> None:
    found = 0
    for seed in range(30):
        row = recall_row(source, Random(seed), 1024)
        for moment in moments_of(row, tail_tokens=320, block_tokens=32) if row.answers else ():
            found += 1
            answer = moment.answer
            assert answer in row.answers
            assert moment.query == (answer.start + 1 - QUERY_TOKENS, answer.start + 1)
            assert moment.horizon == (answer.start, answer.stop)
            assert moment.query[0] >= 704
            ((start, stop),) = answer.evidence
            assert stop <= 704
            assert moment.evidence == tuple(range(start // 32, (stop - 1) // 32 + 1))
            assert not any(other.fact == answer.fact and other.start < answer.start for other in row.answers)
    assert found > 30


def test_text_is_looked_at_every_32_tokens(source: TextSource) -> None:
    moments = moments_of(plain_row(source, Random(0), 1024), tail_tokens=320, block_tokens=32)
    assert [moment.query[1] for moment in moments] == list(range(768, 961, 32))
    assert all(moment.horizon == (moment.query[1] - 1, moment.query[1] + 63) for moment in moments)
    assert moments[0].query == (704, 768)


def test_labels_are_what_opening_a_block_alone_saves(nets: tuple[Core, GistNet], source: TextSource) -> None:
    core, gist_net = nets
    row = plain_row(source, Random(1), 256)
    moments = moments_of(row, tail_tokens=160, block_tokens=32, step_tokens=16)
    assert [moment.query[1] for moment in moments] == [160, 176, 192]
    samples = label(core, gist_net, [(row, moments)], tail_tokens=160)
    ids = torch.from_numpy(row.tokens_T)
    with torch.no_grad():

        def token_nats(opened: int | None) -> torch.Tensor:
            """Of the last 160 tokens."""
            entries, mu, sigma, at = [], [], [], 0.0
            for block in range(8):
                raw = core.embed(ids[32 * block : 32 * block + 32])
                if block >= 3 or block == opened:
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
            logits = core.logits(core(torch.cat(entries)[None], mus, sigmas).hidden_BTD)[0, -160:]
            return torch.nn.functional.cross_entropy(logits, torch.from_numpy(row.targets_T[-160:]), reduction="none")

        saved_CT = token_nats(None) - torch.stack([token_nats(block) for block in range(3)])
    for moment, sample in zip(moments, samples, strict=True):
        expected_C = saved_CT[:, moment.horizon[0] - 96 : moment.horizon[1] - 96].sum(1)
        expected_C = expected_C - expected_C.median()
        np.testing.assert_allclose(sample.utility_C, expected_C / 31, atol=1e-4)
        gains_C = expected_C.clamp(min=0)
        np.testing.assert_allclose(sample.evidence_C, gains_C / gains_C.sum().clamp(min=1.0), atol=1e-4)
        assert sample.query_ids_Q.tolist() == row.tokens_T[slice(*moment.query)].tolist()
        assert sample.query_QD.shape == (QUERY_TOKENS, 32)
        assert sample.hidden_CD.shape == sample.gists_CD.shape == (3, 32)
        assert not sample.asks


def test_questions_know_their_evidence_without_a_measurement(nets: tuple[Core, GistNet], source: TextSource) -> None:
    drawn = [row for seed in range(20) if (row := recall_row(source, Random(seed), 1024)).answers]
    rows = [(row, moments) for row in drawn if (moments := moments_of(row, tail_tokens=320, block_tokens=32))][:6]
    samples = label(*nets, rows, tail_tokens=320, measured=False)
    moments = [moment for _, some in rows for moment in some]
    assert len(samples) == len(moments) > 6
    for moment, sample in zip(moments, samples, strict=True):
        assert sample.asks
        assert sample.utility_C.isnan().all()
        assert sample.evidence_C.nonzero()[:, 0].tolist() == list(moment.evidence)
        assert float(sample.features_CF[:, LEXICAL].max()) == 1.0
        assert float(words_lens(sample).max()) > 0


def test_lexical_scores_prefer_rare_shared_tokens() -> None:
    blocks = np.array([[1, 1, 1, 9], [1, 2, 3, 4], [1, 5, 6, 7], [8, 8, 8, 8]])
    scores = lexical_scores(blocks, np.array([1, 2, 99]))
    assert scores.argmax() == 1
    assert scores[3] == 0
    assert scores[0] > scores[2] > 0


def test_words_in_common_are_counted_by_token_and_by_pair() -> None:
    blocks = np.array([[1, 2, 3, 9], [2, 1, 9, 9], [9, 4, 9, 9], [9, 9, 9, 9]])
    scores, words = word_features(blocks, np.array([1, 2, 7]))
    np.testing.assert_allclose(scores, lexical_scores(blocks, np.array([1, 2, 7])))
    assert words.shape == (4, 3, 2)
    ones, pairs = words[..., 0], words[..., 1]
    assert ones[0, 0] == ones[1, 0] == ones[0, 1] > 0
    assert (words[:, 2] == 0).all()
    assert (words[2:] == 0).all()
    assert pairs[:, 0].tolist() == [0, 0, 0, 0], "nothing stands before the first"
    assert pairs[:, 1].tolist() == pytest.approx([1, 0, 0, 0])
    assert word_features(blocks, np.array([4]))[1][2, 0, 0] == pytest.approx(1)


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
        utility = torch.full((12,), torch.nan)
        utility[[answer, (answer + 1) % 12, (answer + 5) % 12]] = torch.tensor([0.1, 0.0, -0.01])
        samples.append(
            LensSample(
                query_QD=asked,
                hidden_CD=gists,
                gists_CD=gists,
                features_CF=features,
                utility_C=utility,
                evidence_C=evidence,
                query_ids_Q=10 * decoy + torch.arange(6),
                blocks_CK=(10 * torch.arange(12)[:, None] + torch.arange(33) % 5),
                asks=torch.tensor(True),
            )
        )
    return samples


SMALL = LensNetConfig(width=32, num_heads=2, key_dim=16, mlp_width=16, query_tokens=6)


def test_a_lens_learns_what_was_measured_and_beats_the_words() -> None:
    torch.manual_seed(0)
    lens = LensNet(SMALL)
    config = LensTraining(num_steps=400, samples_per_step=32, rate=5e-3, num_strangers=12)
    curve = train_lens(lens, made_up_samples(2000, seed=1), config)
    assert len(curve) == 4
    assert curve[-1] < curve[0]
    held_out = made_up_samples(80, seed=2)
    report = hit_report(
        {
            "hidden": lambda sample: lens_utilities(lens, sample, kind="hidden"),
            "gist": lambda sample: lens_utilities(lens, sample, kind="gist"),
            "words": words_lens,
        },
        held_out,
    )
    assert report["words"]["within_1"]["accuracy"] < 0.3
    for kind in ("hidden", "gist"):
        assert report[kind]["within_1"]["accuracy"] > 0.9
    with torch.no_grad():
        said = torch.stack([lens_utilities(lens, sample, kind="gist")[sample.evidence_C > 0][0] for sample in held_out])
    assert 0.08 < float(said.mean()) < 0.12  # calibrated: 0.1 nats per entry were measured


def test_calibration_compares_what_is_said_with_what_was_saved() -> None:
    samples = made_up_samples(30, seed=4)
    for sample in samples:
        sample.utility_C[:] = 0.1 * sample.evidence_C
    torch.manual_seed(0)
    lens = LensNet(SMALL)
    blind = calibration(lens, samples)
    assert abs(blind["correlation"]) < 0.3
    train_lens(lens, made_up_samples(2000, seed=1), LensTraining(num_steps=400, rate=5e-3, num_strangers=0))
    told = calibration(lens, samples, kind="gist", num_bins=12)
    assert told["correlation"] > 0.8
    assert told["agreement"]["accuracy"] > 0.9
    assert told["bins"][-1]["saved"] == pytest.approx(0.1, abs=0.01)
    assert told["bins"][0]["saved"] == 0


def test_strangers_stand_as_far_away_as_what_is_asked() -> None:
    sample, *others = made_up_samples(41, seed=3)
    strangers = (
        torch.stack([other.gists_CD[0] for other in others]),
        torch.stack([other.blocks_CK[0] for other in others]),
    )
    seen = looked(sample, strangers, Random(0))
    assert seen.features_NF.shape == (52, len(FEATURES))
    assert seen.words_NQ2.shape == (52, 6, 2)
    assert float(seen.features_NF[:, LEXICAL].max()) == 1.0
    distances = 2 ** (seen.features_NF[:, FEATURES.index("log2_distance")] * 40)
    own, foreign = distances[:12], distances[12:]
    assert 200 < float(foreign.min()) < float(foreign.max()) <= 2**20
    assert float(own.min()) > 200, "or nearness alone would give them away"
    near = looked(sample)
    assert near.features_NF[:, FEATURES.index("log2_distance")].max() == 0
    sample.asks.fill_(False)
    text = looked(sample, strangers, Random(0))
    assert (text.features_NF[:12, FEATURES.index("log2_distance")] == 0).all(), "text pays where it is near"


def test_a_lens_tells_strangers_apart() -> None:
    torch.manual_seed(0)
    lens = LensNet(SMALL)
    samples = made_up_samples(800, seed=1)
    train_lens(lens, samples, LensTraining(num_steps=300, rate=5e-3, num_strangers=40))
    hits = []
    with torch.no_grad():
        for sample in made_up_samples(60, seed=2):
            foreign = samples[: 200 // 12]
            strangers = (
                torch.cat([other.gists_CD for other in foreign]),
                torch.cat([other.blocks_CK for other in foreign]),
            )
            said = lens_utilities(lens, sample, kind="gist", seen=looked(sample, strangers, Random(0)))
            hits.append(bool(sample.evidence_C[said.argmax()] if said.argmax() < 12 else 0))
    assert np.mean(hits) > 0.85


def test_a_lens_learns_which_words_are_asked_about() -> None:
    """The last two tokens name the block; those before them name others, as earlier questions do."""
    torch.manual_seed(0)
    random = Random(0)

    def sample() -> LensSample:
        made = made_up_samples(1, seed=random.randrange(10**6))[0]
        answer, *others = random.sample(range(12), 3)
        made.query_QD.normal_()
        made.query_ids_Q[:] = torch.tensor(
            [10 * others[0], 10 * others[0] + 1, 10 * others[1], 10 * others[1] + 1, 10 * answer, 10 * answer + 1]
        )
        made.evidence_C[:] = 0
        made.evidence_C[answer] = 1
        made.utility_C[:] = torch.nan
        return made

    lens = LensNet(SMALL)
    train_lens(lens, [sample() for _ in range(400)], LensTraining(num_steps=200, rate=1e-2, num_strangers=0))
    held_out = [sample() for _ in range(60)]
    hits = hit_report(
        {"lens": lambda one: lens_utilities(lens, one, kind="gist"), "words": lambda one: words_lens(one)}, held_out
    )
    assert hits["words"]["within_1"]["accuracy"] < 0.6
    assert hits["lens"]["within_1"]["accuracy"] > 0.95


@pytest.mark.parametrize("change", [{"hide_words": 2.0}, {"num_strangers": -1}, {"num_steps": 0}])
def test_impossible_training_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match="cannot train a lens"):
        LensTraining(**change)  # type: ignore[arg-type]
