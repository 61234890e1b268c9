"""Labels are real counterfactuals, and a lens learns to say what was measured."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from random import Random

import numpy as np
import pytest
import torch

from megacontext.errors import InvalidValueError, TrainingError
from megacontext.focus.lenses.features import (
    MAX_LEVEL,
    MAX_LOG2,
    TOKENS_BEFORE,
    UNKNOWN,
    word_features,
)
from megacontext.nets import shapes
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import FEATURES, QUERY_TOKENS, WORD_KINDS, LensNetConfig
from megacontext.training import lens_labels, lens_model
from megacontext.training.lens_labels import LensSample, label
from megacontext.training.lens_model import (
    LensTraining,
    calibration,
    calibration_figures,
    hit_report,
    lens_logits,
    lens_utilities,
    looked,
    train_lens,
    words_lens,
)
from megacontext.training.moments import moments_of
from megacontext.training.rows import plain_row, recall_row
from megacontext.training.windows import TextSource

LEXICAL = FEATURES.index("lexical")


def test_moments_are_the_questions_that_the_tail_cannot_answer(source: TextSource) -> None:
    found = 0
    ends = {source.encode(text)[-1] for text in ("\nAnswer:", "\nA:", " It is", " Smith is")}
    for seed in range(30):
        row = recall_row(source, Random(seed), 1024)
        for moment in moments_of(row, tail_tokens=320, block_tokens=32) if row.answers else ():
            found += 1
            answer = moment.answer
            assert answer in row.answers
            assert moment.query == (answer.asked - QUERY_TOKENS, answer.asked)
            assert row.tokens_T[moment.query[1] - 1] in ends, "the value has not begun, nor the space before it"
            assert moment.horizon == (answer.start, answer.stop)
            assert moment.query[0] >= 704
            ((start, stop),) = answer.evidence
            assert stop <= 704
            assert moment.evidence == tuple(range(start // 32, (stop - 1) // 32 + 1))
            assert not any(other.fact == answer.fact and other.start < answer.start for other in row.answers)
    assert found > 30


def test_text_is_looked_at_every_16_tokens(source: TextSource) -> None:
    moments = moments_of(plain_row(source, Random(0), 1024), tail_tokens=320, block_tokens=32)
    assert [moment.query[1] for moment in moments] == list(range(768, 1009, 16))
    assert all(moment.horizon == (moment.query[1] - 1, moment.query[1] + 15) for moment in moments)
    assert moments[0].query == (704, 768)
    later = moments_of(
        plain_row(source, Random(0), 1024), tail_tokens=512, block_tokens=32, text_after=256, step_tokens=8
    )
    assert [moment.query[1] for moment in later] == list(range(768, 1009, 8))


def test_labels_are_what_opening_a_block_alone_saves(
    nets: tuple[Core, GistNet], source: TextSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, gist_net = nets
    row = plain_row(source, Random(1), 256)
    moments = moments_of(row, tail_tokens=160, block_tokens=32, horizon_tokens=64, step_tokens=16)
    assert [moment.query[1] for moment in moments] == [160, 176, 192]
    monkeypatch.setattr(lens_labels, "GROUP", 2)
    monkeypatch.setattr(lens_labels, "FAR_NATS", 0.02)
    samples = label(core, gist_net, [(row, moments)], tail_tokens=160)
    ids = torch.from_numpy(row.tokens_T)
    with torch.no_grad():

        def gist_of(block: int) -> torch.Tensor:
            return gist_net(
                core.embed(ids[32 * block : 32 * block + 32])[None], level=1, num_children=32, gist_width=1
            )[0]

        def token_nats(opened: Collection[int] = (), *, joined: bool = False) -> torch.Tensor:
            """Of the last 160 tokens; joined: the first two blocks are one gist of level 2."""
            entries, mu, sigma, at = [], [], [], 0.0
            for block in range(8):
                raw = core.embed(ids[32 * block : 32 * block + 32])
                if joined and block < 2:
                    if block == 1:
                        both = torch.stack([gist_of(0), gist_of(1)])[:, 0][None]
                        entries.append(gist_net(both, level=2, num_children=2, gist_width=1)[0])
                        mu.append(1.5)
                        sigma.append(4 * 12**-0.5)
                        at = 4
                elif block >= 3 or block in opened:
                    entries.append(raw)
                    mu.extend(at + place for place in range(32))
                    sigma.extend([0.0] * 32)
                    at += 32
                else:
                    entries.append(gist_of(block))
                    mu.append(at + 1.5)
                    sigma.append(4 * 12**-0.5)
                    at += 4
            mus, sigmas = torch.tensor(mu).double()[None], torch.tensor(sigma)[None]
            logits = core.logits(core(torch.cat(entries)[None], mus, sigmas).hidden_BTD)[0, -160:]
            return torch.nn.functional.cross_entropy(logits, torch.from_numpy(row.targets_T[-160:]), reduction="none")

        after_CT = torch.stack([token_nats([block]) for block in range(3)])
        saved_CT = token_nats() - after_CT
        joined_CT = token_nats(joined=True) - after_CT
        needed_T = token_nats() - token_nats(range(3))
    num_held = 0
    for moment, sample in zip(moments, samples, strict=True):
        horizon = slice(moment.horizon[0] - 96, moment.horizon[1] - 96)
        expected_C = saved_CT[:, horizon].sum(1)
        np.testing.assert_allclose(sample.saved_LC[0], expected_C - expected_C.median(), atol=1e-4)
        joined_C = joined_CT[:2, horizon].sum(1)
        np.testing.assert_allclose(sample.saved_LC[1, :2], joined_C - expected_C.median(), atol=1e-4)
        assert sample.saved_LC[1, 2].isnan(), "a gist of its own stands for it"
        siblings_C = sample.saved_LC[1, :2] - sample.saved_LC[0, :2]
        told = float((token_nats(joined=True) - token_nats())[horizon].sum())
        np.testing.assert_allclose(siblings_C, told, atol=1e-4)  # one amount for all blocks of a moment
        evidence_C = torch.zeros(3)
        for saved_C, needed in zip(saved_CT[:, horizon].T, needed_T[horizon], strict=True):
            saved_C = saved_C - saved_C.median().clamp(min=0)  # what any block brings
            held_C = saved_C.clamp(max=needed) * (saved_C >= needed / 4)
            if needed >= 0.02 and float(held_C.sum()) > 0:
                num_held += 1
                evidence_C += needed * held_C / held_C.sum()
        np.testing.assert_allclose(sample.evidence_C, evidence_C / max(1, float(evidence_C.sum())), atol=1e-4)
        assert sample.query_ids_Q.tolist() == row.tokens_T[slice(*moment.query)].tolist()
        assert sample.query_QD.shape == (QUERY_TOKENS, 32)
        assert sample.gists_CD.shape == (3, 32)
        assert not sample.asks
        assert sample.blocks_CK[:, TOKENS_BEFORE:].tolist() == row.tokens_T[:96].reshape(3, 32).tolist()
        assert sample.blocks_CK[1, :TOKENS_BEFORE].tolist() == row.tokens_T[32 - TOKENS_BEFORE : 32].tolist()
        assert (sample.blocks_CK[0, :TOKENS_BEFORE] == UNKNOWN).all()
    assert num_held


def test_questions_know_their_evidence_without_a_measurement(nets: tuple[Core, GistNet], source: TextSource) -> None:
    drawn = [row for seed in range(20) if (row := recall_row(source, Random(seed), 1024)).answers]
    rows = [(row, moments) for row in drawn if (moments := moments_of(row, tail_tokens=320, block_tokens=32))][:6]
    samples = label(*nets, rows, tail_tokens=320, measured=False)
    moments = [moment for _, some in rows for moment in some]
    assert len(samples) == len(moments) > 6
    for moment, sample in zip(moments, samples, strict=True):
        assert sample.asks
        assert sample.saved_LC.isnan().all()
        assert sample.evidence_C.nonzero()[:, 0].tolist() == list(moment.evidence)
        assert float(looked(sample).features_NF[:, LEXICAL].max()) == 1.0
        assert float(words_lens(sample).max()) > 0


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
        features[:, FEATURES.index("level")] = 1 / MAX_LEVEL
        features[:, FEATURES.index("log2_width")] = math.log2(33) / MAX_LOG2  # as strangers have it
        features[decoy, LEXICAL] = 1.0
        evidence = torch.zeros(12)
        evidence[answer] = 1.0
        saved = torch.full((2, 12), torch.nan)
        saved[0, [answer, (answer + 1) % 12, (answer + 5) % 12]] = torch.tensor([2.0, 0.0, -0.01])
        saved[1, answer] = 4.0
        samples.append(
            LensSample(
                query_QD=asked,
                gists_CD=gists,
                features_CF=features,
                saved_LC=saved,
                evidence_C=evidence,
                known_C=torch.ones(12, dtype=torch.bool),
                told_C=evidence > 0,
                query_ids_Q=10 * decoy + torch.arange(6),
                blocks_CK=torch.cat(
                    [torch.full((12, TOKENS_BEFORE), UNKNOWN), 10 * torch.arange(12)[:, None] + torch.arange(33) % 5],
                    dim=1,
                ),
                asks=torch.tensor(True),
            )
        )
    return samples


SMALL = LensNetConfig(width=32, num_heads=2, key_dim=16, mlp_width=16, query_tokens=6)


def test_a_lens_learns_what_was_measured_and_beats_the_words() -> None:
    torch.manual_seed(0)
    lens = LensNet(SMALL)
    config = LensTraining(num_steps=400, samples_per_step=32, rate=5e-3, num_strangers=12, measured=0.2)
    curve = train_lens(lens, made_up_samples(2000, seed=1), config)
    assert len(curve) == 4
    assert curve[-1] < curve[0]
    held_out = made_up_samples(80, seed=2)
    report = hit_report(
        {
            "lens": lambda sample: lens_utilities(lens, sample),
            "words": words_lens,
        },
        held_out,
    )
    assert report["words"]["within_1"]["accuracy"] < 0.3
    assert report["lens"]["within_1"]["accuracy"] > 0.9
    assert report["lens"]["told_1"] == report["lens"]["within_1"], "the value stands where the evidence is"
    with torch.no_grad():
        for level, measured in ((1, 2.0), (2, 4.0)):
            said = [lens_utilities(lens, one, level=level)[one.evidence_C > 0][0] for one in held_out]
            assert float(torch.stack(said).mean()) == pytest.approx(measured, rel=0.15)


def test_calibration_compares_what_is_said_with_what_was_saved() -> None:
    samples = made_up_samples(30, seed=4)
    for sample in samples:
        sample.saved_LC[0] = 2 * sample.evidence_C
        sample.saved_LC[1] = torch.nan
    torch.manual_seed(0)
    lens = LensNet(SMALL)
    blind = calibration(lens, samples)["level 1"]
    assert abs(blind["correlation"]) < 0.3
    train_lens(
        lens, made_up_samples(2000, seed=1), LensTraining(num_steps=600, rate=5e-3, num_strangers=0, measured=0.2)
    )
    levels = calibration(lens, samples, num_bins=4)
    told = levels["level 1"]
    assert told["correlation"] > 0.8
    assert told["agreement"]["accuracy"] > 0.9
    assert told["bins"][-1]["saved"] == pytest.approx(2, abs=0.2)
    assert told["bins"][-1]["said"] == pytest.approx(2, rel=0.2)
    assert told["bins"][0]["saved"] < 0.2
    assert sum(part["blocks"] for part in told["bins"]) == 30 * 12
    assert levels["level 2"] == {"correlation": None, "agreement": None, "bins": []}
    for sample in samples:
        sample.saved_LC[0] = 0.0
    assert calibration(lens, samples)["level 1"]["correlation"] is None, "which is no number where all are alike"


def test_what_a_lens_says_is_compared_while_it_learns() -> None:
    held_out, noted = {"questions": made_up_samples(20, seed=4)}, {}
    for sample in held_out["questions"]:
        sample.saved_LC[1] = torch.nan
    torch.manual_seed(0)
    watched, alone = LensNet(SMALL), LensNet(SMALL)
    alone.load_state_dict(watched.state_dict())
    config = LensTraining(num_steps=60, rate=5e-3, num_strangers=12)
    samples = made_up_samples(200, seed=1)

    def judge(step: int) -> None:
        noted[step] = calibration_figures(watched, held_out)

    assert train_lens(watched, samples, config, judge=judge, judge_every=20) == train_lens(alone, samples, config)
    assert list(noted) == [20, 40, 60]
    told = calibration(watched, held_out["questions"])["level 1"]
    assert noted[60] == {
        "correlation/questions/level_1": told["correlation"],
        "agreement/questions/level_1": told["agreement"]["accuracy"],
    }


def test_strangers_stand_as_far_away_as_what_is_asked() -> None:
    sample, *others = made_up_samples(41, seed=3)
    strangers = (
        torch.stack([other.gists_CD[0] for other in others]),
        torch.stack([other.blocks_CK[0] for other in others]),
    )
    seen = looked(sample, strangers, Random(0))
    assert seen.features_NF.shape == (52, len(FEATURES))
    assert seen.words_NQ4.shape == (52, 6, 4)
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
            said = lens_utilities(lens, sample, seen=looked(sample, strangers, Random(0)))
            hits.append(bool(sample.evidence_C[said.argmax()] if said.argmax() < 12 else 0))
    assert np.mean(hits) > 0.85


def test_half_of_the_strangers_are_lookalikes_and_none_is_its_own() -> None:
    torch.manual_seed(0)
    lens = LensNet(SMALL)
    samples = made_up_samples(30, seed=5)
    for number, sample in enumerate(samples):
        sample.blocks_CK.add_(1000 * number)  # every block is one of a kind
    pool = (torch.cat([one.gists_CD for one in samples]), torch.cat([one.blocks_CK for one in samples]))
    drawn = lens_model._lookalikes(lens, samples[:3], pool, 20, Random(0))
    with torch.no_grad():
        for sample, (gists, blocks) in zip(samples[:3], drawn, strict=True):
            assert gists.shape == (20, 32)
            assert not {block.tobytes() for block in blocks.numpy()} & {
                one.tobytes() for one in sample.blocks_CK.numpy()
            }
            _, logits = lens_logits(lens, sample, seen=looked(sample, (gists, blocks), Random(0)))
            assert logits[12:22].mean() > logits[22:].mean()
    two_of_a_kind = lens_model._lookalikes(lens, samples[:1], (pool[0][:24], pool[1][:24]), 20, Random(0))[0][1]
    assert {block.tobytes() for block in two_of_a_kind.numpy()} <= {one.tobytes() for one in pool[1][12:24].numpy()}


@pytest.mark.parametrize("next_door", [False, True], ids=["in the block", "at the end of the one before"])
def test_a_lens_learns_which_words_are_asked_about(next_door: bool) -> None:
    """The last two tokens name a block; those before them name others, as earlier questions do. What is needed stands
    in that block, or in the next one, which shares no word with the question."""
    torch.manual_seed(0)
    random = Random(0)

    def sample() -> LensSample:
        made = made_up_samples(1, seed=random.randrange(10**6))[0]
        named, *others = random.sample(range(11), 3)
        made.query_QD.normal_()
        made.query_ids_Q[:] = torch.tensor([10 * block + more for block in (*others, named) for more in (0, 1)])
        made.blocks_CK[1:, :TOKENS_BEFORE] = made.blocks_CK[:-1, -TOKENS_BEFORE:]
        made.evidence_C[:] = 0
        made.evidence_C[named + next_door] = 1
        made.saved_LC[:] = torch.nan
        return made

    lens = LensNet(SMALL)
    train_lens(lens, [sample() for _ in range(600)], LensTraining(num_steps=500, rate=1e-2, num_strangers=0))
    held_out = [sample() for _ in range(100)]
    hits = hit_report({"lens": lambda one: lens_utilities(lens, one), "words": lambda one: words_lens(one)}, held_out)
    assert hits["words"]["within_1"]["accuracy"] < 0.6
    assert hits["lens"]["within_1"]["accuracy"] > 0.9


def test_a_loss_that_is_no_number_stops_a_lens() -> None:
    samples = made_up_samples(40, seed=1)
    lens = LensNet(LensNetConfig(width=samples[0].query_QD.shape[-1]))
    with torch.no_grad():
        lens.down.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"step 0: the lens's loss is nan on 4 samples of questions"):
        train_lens(lens, samples, LensTraining(num_steps=3, samples_per_step=4, num_strangers=0))


@pytest.mark.parametrize("change", [{"hide_words": 2.0}, {"num_strangers": -1}, {"num_steps": 0}, {"num_scanned": 0}])
def test_impossible_training_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match="cannot train a lens"):
        LensTraining(**change)  # type: ignore[arg-type]


def test_a_lens_of_another_version_is_refused() -> None:
    assert shapes.TOKENS_BEFORE == TOKENS_BEFORE
    assert (
        word_features(np.zeros((1, TOKENS_BEFORE + 4), dtype=np.int64), np.zeros(2)).words.by_token().shape[-1]
        == WORD_KINDS
    )
    assert LensNetConfig(features=list(FEATURES)) == LensNetConfig()  # type: ignore[arg-type] # as JSON has it
    with pytest.raises(InvalidValueError, match="2 kinds of words and 4 tokens before a block"):
        LensNetConfig(word_kinds=2, tokens_before=4)
    with pytest.raises(InvalidValueError, match="features lexical, mood, of which each has to be one of level, "):
        LensNetConfig(features=("lexical", "mood"))
    with pytest.raises(InvalidValueError, match="direct is 'yes'; choose True or False"):
        LensNetConfig(direct="yes")  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match=r"lexical, lexical, .* once; make a new lens"):
        LensNetConfig(features=("lexical", "lexical"))


def test_a_lens_is_told_the_features_that_it_was_taught() -> None:
    """One that knows fewer than this version still says what it said."""
    sample, *_ = made_up_samples(1, seed=5)
    torch.manual_seed(0)
    few = LensNet(dataclasses.replace(SMALL, features=("lexical", "log2_distance"), direct=False))
    assert not {"told_weight", "trust.weight"} & set(few.state_dict())
    seen = looked(sample)
    with torch.no_grad():
        queries, logits = lens_logits(few, sample, seen=seen)
        found = few.found(queries, few.keys(sample.gists_CD))
        features = seen.features_NF[:, [FEATURES.index("lexical"), FEATURES.index("log2_distance")]]
        torch.testing.assert_close(logits, few(queries, found, few.in_common(queries, seen.words_NQ4), features))
    assert queries.trust_T is None


def test_words_of_the_last_tokens_lead_until_something_is_learned() -> None:
    torch.manual_seed(0)
    lens = LensNet(SMALL)
    with torch.no_grad():
        for weight in (lens.up.weight, lens.down.weight, lens.match_weight):
            weight.zero_()
        queries = lens.queries(torch.randn(6, 32))
        assert queries.trust_T is not None
        assert queries.trust_T.unique().tolist() == [1.0]
        features = torch.zeros(3, len(FEATURES))
        features[1, FEATURES.index("lexical_8")] = 0.5
        logits = lens(queries, torch.zeros(3, 2), None, features)
        torch.testing.assert_close(logits - logits[0], torch.tensor([0.0, 2.0, 0.0]))
        lens.trust.bias.fill_(-50.0)
        nothing = lens(lens.queries(torch.randn(6, 32)), torch.zeros(3, 2), None, features)
        torch.testing.assert_close(nothing - nothing[0], torch.zeros(3))
    places = lens.word_places.unflatten(0, (WORD_KINDS, -1))
    assert (places[0] == places[3]).all()
    assert [int((row == 0).sum()) for row in places[0]] == [6, 3, 1, 1]
