"""Ways to spend a window on real text: each against what it must equal."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tests.training.conftest import tiny_nets

from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import FEATURES, LensNetConfig
from megacontext.training import text_scoring
from megacontext.training.memory_windows import score_windows
from megacontext.training.text_scoring import FIRST, TextNets, pair_report, score_often, score_ways, share_report
from megacontext.training.windows import Window

PIECES = [
    f"word{'abcdefghij'[index // 100]}{'klmnopqrst'[index // 10 % 10]}{'uvwxyzabcd'[index % 10]} ".encode()
    for index in range(256)
]
ANSWER = 255  # stands in far block 17 and among the scored tokens, nowhere else


@pytest.fixture(scope="module")
def rows() -> list[Window]:
    made = []
    for seed in range(4):
        ids = np.random.default_rng(seed).integers(0, 40, 2049)
        ids[17 * 32 + 5] = ids[FIRST + 70] = ANSWER
        made.append(Window(tokens_T=ids[:-1], targets_T=ids[1:], weights_T=np.ones(2048, np.float32)))
    return made


@pytest.fixture(scope="module")
def nets() -> TextNets:
    core, gist_net = tiny_nets()
    lens_net = LensNet(LensNetConfig(width=32, num_heads=2, key_dim=8, mlp_width=16))
    with torch.no_grad():
        lens_net.match_weight.zero_()
        lens_net.told_weight.zero_()
        lens_net.up.weight.zero_()
        lens_net.up.weight[0, FEATURES.index("lexical") - len(FEATURES)] = 20.0  # it goes by the words alone
        lens_net.down.weight.zero_()
        lens_net.down.weight[0, 0] = 1.0
    return TextNets(core=core.eval(), gist_net=gist_net.eval(), lens_net=lens_net.eval())


@pytest.fixture(scope="module")
def ways(nets: TextNets, rows: list[Window]) -> dict[str, np.ndarray]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_scoring, "QUERY_TOKENS", 32)  # as many as the words alone look at
        return score_ways(nets, rows, PIECES)


@torch.no_grad()
def plain_nats(core: Core, row: Window, first: int, at: torch.Tensor) -> np.ndarray:
    """Nats of the scored tokens by a window of the tokens from ``first`` on, placed at ``at``."""
    entries = core.embed(torch.from_numpy(row.tokens_T[first:]))[None]
    hidden = core(entries, at.double()[None], torch.zeros(1, len(at))).hidden_BTD[0]
    targets = torch.from_numpy(row.targets_T[FIRST - 1 : 2047])
    logits = core.logits(hidden[FIRST - 1 - first : 2047 - first])
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none").numpy()


def test_full_and_recent_windows_are_plain_ones(nets, rows, ways):
    for number, row in enumerate(rows):
        np.testing.assert_allclose(ways["full"][number], plain_nats(nets.core, row, 0, torch.arange(2048)), atol=1e-3)
        for num_recent in (256, 448, 512):
            num_out = (FIRST - num_recent) // 32
            behind_gists = 4 * num_out + torch.arange(2048 - 32 * num_out)  # what is left out keeps its place
            np.testing.assert_allclose(
                ways[f"recent {num_recent}"][number],
                plain_nats(nets.core, row, 32 * num_out, behind_gists),
                atol=1e-3,
                err_msg=f"recent {num_recent}",
            )


@pytest.mark.parametrize("block_tokens", [32, 8])
def test_gists_are_those_of_the_far_blocks_and_shuffled_ones_anothers(nets, rows, ways, block_tokens):
    is_open_BN = np.zeros((4, 2048 // block_tokens), np.bool_)
    is_open_BN[:, (FIRST - 256) // block_tokens :] = True
    for control, name in (("real", ""), ("shuffled", ", shuffled")):
        scores = score_windows(
            nets.core, nets.gist_net, rows, is_open_BN, block_tokens=block_tokens, gist_width=1, control=control
        )
        expected = scores.nats_BT[:, FIRST - 1 : 2047]
        np.testing.assert_allclose(ways[f"gists {block_tokens}:1{name}"], expected, atol=1e-4, err_msg=name)


def test_the_lens_chooses_what_its_net_says(ways):
    for every in (64, 8):
        by_lens = ways[f"lens, every {every}"]
        np.testing.assert_allclose(by_lens, ways[f"lexical, last 32, every {every}"], atol=1e-3)
        assert not np.allclose(by_lens, ways[f"lens, every {every}, and gists"], atol=1e-3)
    assert not np.allclose(ways["lens, every 64"], ways["lens, every 8"], atol=1e-3)


def test_ways_differ_where_their_windows_differ(ways):
    assert not np.allclose(ways["gists 32:1"], ways["gists 32:1, shuffled"], atol=1e-3)
    assert not np.allclose(ways["gists 32:1"], ways["gists 8:1"], atol=1e-3)
    assert not np.allclose(ways["recent 256"], ways["recent 448"], atol=1e-3)
    assert all(np.isfinite(nats).all() and nats.shape == (4, 256) for nats in ways.values())


def test_the_oracle_opens_the_block_of_the_coming_word(nets, rows, monkeypatch):
    from megacontext.training import text_scoring

    opened = []
    real = text_scoring.run_windows

    def watched(core, gist_net, part, is_open_BN, **options):
        opened.append((part, is_open_BN))
        return real(core, gist_net, part, is_open_BN, **options)

    monkeypatch.setattr(text_scoring, "run_windows", watched)
    text_scoring._with_opened(nets, rows, partial(text_scoring._oracle, pieces_V=PIECES), "none", 64)
    chunks = [is_open_BN for _, is_open_BN in opened]
    assert [len(is_open_BN[0]) for is_open_BN in chunks] == [58, 60, 62, 64]
    assert all((is_open_BN[:, :48].sum(1) == 6).all() and is_open_BN[:, 48:].all() for is_open_BN in chunks)
    assert chunks[1][:, 17].all()
    opened.clear()
    text_scoring._with_opened(nets, rows, partial(text_scoring._oracle, pieces_V=PIECES), "none", 8)
    often = [is_open_BN for _, is_open_BN in opened]
    assert [len(is_open_BN[0]) for is_open_BN in often] == np.repeat(range(57, 65), 4).tolist()
    assert often[8][:, 17].all(), "the word comes 70 tokens after the first scored one"


def test_the_oracle_knows_a_word_that_began_before_it_chooses():
    from megacontext.training import text_scoring

    ids = np.arange(2048) % 40
    for place in (17 * 32 + 5, FIRST + 63):
        ids[place : place + 2] = 40, 41
    ids[20 * 32 : 20 * 32 + 2] = ids[[FIRST + 60, FIRST + 67]] = 42  # near text has it, and no far word
    row = Window(tokens_T=ids, targets_T=ids, weights_T=np.ones(2048, np.float32))
    pieces = [b" "] * 40 + [b" lant", b"ern", b" x"]
    for at, every in ((FIRST, 64), (FIRST + 64, 64), (FIRST + 64, 8), (FIRST + 56, 8)):
        assert text_scoring._oracle(row, at, every, pieces_V=pieces)[0] == 17, (at, every)


def test_shares_are_measured_against_full_context(rows):
    rng = np.random.default_rng(0)
    recent = rng.uniform(1, 3, (4, 256))
    gain = rng.uniform(0.1, 0.3, (4, 256))
    ways = {"recent 256": recent, "full": recent - gain, "half": recent - gain / 2, "worse": recent + 0.1}
    report = share_report(ways, rows, PIECES)
    assert report["full"]["far"]["share"] == 1.0
    assert report["full"]["far"]["interval"] == [1.0, 1.0]
    nothing = {"nats": 0.0, "standard_error": 0.0, "share": 0.0, "interval": [0.0, 0.0], "tokens": 1024}
    assert report["recent 256"]["all"] == nothing
    assert report["half"]["all"]["share"] == pytest.approx(0.5, abs=1e-4)
    assert report["half"]["all"]["nats"] == pytest.approx(-gain.mean() / 2, abs=1e-4)
    assert report["worse"]["all"]["share"] < 0
    kinds = {kind: entry["tokens"] for kind, entry in report["full"].items()}
    assert kinds["far"] >= 4
    assert kinds["far"] + kinds["recent"] + kinds["new"] == kinds["all"] == 1024


def test_nothing_is_shared_where_full_context_gains_nothing(rows):
    recent = np.ones((4, 256))
    report = share_report({"recent 256": recent, "full": recent + 0.1, "other": recent}, rows, PIECES)
    assert report["other"]["all"]["share"] is None
    assert report["other"]["all"]["interval"] is None


def test_pairs_are_compared_window_by_window(rows):
    rng = np.random.default_rng(1)
    level = rng.uniform(1, 9, (4, 1))  # windows differ far more than the ways do
    gain_W = np.array([0.1, 0.2, 0.3, 0.4])
    shuffled = level + np.zeros((4, 256))
    ways = {"full": shuffled, "gists 32:1": shuffled - gain_W[:, None], "gists 32:1, shuffled": shuffled}
    report = pair_report(ways, rows, PIECES)
    assert list(report) == ["gists 32:1 - gists 32:1, shuffled"]
    entry = report["gists 32:1 - gists 32:1, shuffled"]["all"]
    assert entry["nats"] == pytest.approx(-0.25, abs=1e-4)
    assert entry["standard_error"] == pytest.approx(gain_W.std() / 2, abs=1e-4)


def test_other_numbers_of_tokens_between_choices(nets, rows, ways, monkeypatch):
    monkeypatch.setattr(text_scoring, "QUERY_TOKENS", 32)
    found = score_often(nets, rows, every=8)
    assert list(found) == ["full", "recent 256", "lexical, last 8, every 8", "lens, every 8"]
    for name, nats_WS in found.items():
        np.testing.assert_allclose(nats_WS, ways[name], atol=1e-5)
    once = score_often(replace(nets, lens_net=None), rows[:2], every=256)
    assert list(once)[2:] == ["lexical, last 8, every 256"]
    assert not np.allclose(once["lexical, last 8, every 256"], found["lexical, last 8, every 8"][:2], atol=1e-3)
    for every in (0, 7, 512):
        with pytest.raises(InvalidValueError, match=f"every is {every}; .* that divides the 256"):
            score_often(nets, rows, every=every)


def test_one_window_cannot_be_shuffled(nets, rows):
    with pytest.raises(InvalidValueError, match="1 windows of text"):
        score_ways(nets, rows[:1], PIECES)
