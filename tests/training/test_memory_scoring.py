"""Scores of mixed windows and their controls, against windows built by hand."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from megacontext.errors import InvalidValueError
from megacontext.focus.lenses.features import lexical_scores
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import FEATURES, LensNetConfig
from megacontext.training import memory_scoring
from megacontext.training.memory_scoring import (
    blocks_within,
    lens_opens,
    plain_recall,
    recall_by_ratio,
    recall_in_windows,
)
from megacontext.training.memory_windows import batches_of, score_windows
from megacontext.training.rows import puzzle_row, recall_row
from megacontext.training.windows import TextSource, Window


def plain_rows(num_rows: int, num_tokens: int) -> list[Window]:
    ids = np.random.default_rng(0).integers(0, 512, (num_rows, num_tokens + 1))
    return [Window(tokens_T=row[:-1], targets_T=row[1:], weights_T=np.ones(num_tokens, np.float32)) for row in ids]


def test_open_windows_score_as_the_plain_core(nets: tuple[Core, GistNet]) -> None:
    rows = plain_rows(2, 64)
    scores = score_windows(*nets, rows, np.ones((2, 8), dtype=np.bool_), block_tokens=8, gist_width=1)
    ids = torch.from_numpy(np.stack([row.tokens_T for row in rows]))
    with torch.no_grad():
        logits = nets[0].logits(
            nets[0](nets[0].embed(ids), torch.arange(64.0).double()[None], torch.zeros(1, 64)).hidden_BTD
        )
    targets = torch.from_numpy(np.stack([row.targets_T for row in rows]))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(2, 64)
    np.testing.assert_allclose(scores.nats_BT, expected.numpy(), atol=1e-4)
    np.testing.assert_array_equal(scores.hits_BT, (logits.argmax(-1) == targets).numpy())


def test_controls_change_the_gists_and_nothing_else(nets: tuple[Core, GistNet]) -> None:
    core, gist_net = nets
    rows = plain_rows(2, 32)
    is_open = np.array([[False, False, False, True]] * 2)
    by_control = {
        control: score_windows(core, gist_net, rows, is_open, block_tokens=8, gist_width=2, control=control)
        for control in ("real", "shuffled", "none")
    }
    for row in range(2):
        for control, scores in by_control.items():
            taken = rows[row if control == "real" else 1 - row]
            with torch.no_grad():
                spans = core.embed(torch.from_numpy(taken.tokens_T[:24])).view(3, 8, -1)
                gists = gist_net(spans, level=1, num_children=8, gist_width=2).flatten(0, 1)
                tail = core.embed(torch.from_numpy(rows[row].tokens_T[24:]))
                entries = tail if control == "none" else torch.cat([gists, tail])
                mu = torch.cat([torch.arange(6) * 4 + 1.5, torch.arange(24, 32)]).double()[-len(entries) :]
                sigma = torch.cat([torch.full((6,), 4 * 12**-0.5), torch.zeros(8)])[-len(entries) :]
                logits = core.logits(core(entries[None], mu[None], sigma[None]).hidden_BTD)[0, -8:]
            expected = torch.nn.functional.cross_entropy(
                logits, torch.from_numpy(rows[row].targets_T[24:]), reduction="none"
            )
            np.testing.assert_allclose(scores.nats_BT[row, 24:], expected.numpy(), atol=1e-4)
            assert np.isnan(scores.nats_BT[row, :23]).all()
            assert np.isnan(scores.nats_BT[row, 23]) == (control == "none")  # said by the last gist


def test_a_budget_says_how_many_blocks_can_be_open() -> None:
    assert blocks_within(512, num_blocks=64, block_tokens=32, gist_width=1) == 14
    assert blocks_within(256, num_blocks=64, block_tokens=32, gist_width=1) == 6
    assert blocks_within(128, num_blocks=64, block_tokens=32, gist_width=1) == 2
    for budget in (128, 200, 512):
        num_open = blocks_within(budget, num_blocks=64, block_tokens=32, gist_width=1)
        assert num_open * 32 + (64 - num_open) <= budget < (num_open + 1) * 32 + (63 - num_open)


@pytest.mark.parametrize("make", [recall_row, puzzle_row])
def test_the_report_has_every_way_and_every_control(
    make: object, nets: tuple[Core, GistNet], source: TextSource
) -> None:
    rows = [make(source, Random(seed), 1024) for seed in range(4)]  # type: ignore[operator]
    report = recall_in_windows(*nets, rows, budgets=(256,), tail_blocks=4)
    assert set(report) == {"full", "256/recency"} | {
        f"256/{way}/{control}" for way in ("gists", "oracle", "words") for control in ("real", "shuffled", "none")
    }
    counts = {entry["exact"]["n"] for entry in report.values()}  # type: ignore[index]
    assert len(counts) == 1  # the same questions everywhere
    assert counts.pop() > 0
    within = {entry["inside"]["n"] for entry in report.values()}  # type: ignore[index]
    assert len(within) == 1
    assert within.pop() <= report["full"]["exact"]["n"]  # type: ignore[index]


def test_kinds_are_told_apart_and_add_up(nets: tuple[Core, GistNet], source: TextSource) -> None:
    rows = [puzzle_row(source, Random(seed), 1024) for seed in range(4)]
    report = recall_in_windows(*nets, rows, budgets=(256,), tail_blocks=4, only=("gists",), controls=("real",))
    assert set(report) == {"full", "256/recency", "256/gists/real"}
    keys = {answer.fact.key for row in rows for answer in memory_scoring._asked_in_tail(row, 128)}
    assert len(keys) > 2
    for one in report.values():
        assert set(one["by_kind"]) == keys
        for measure in ("n", "accuracy"):
            parts = [(part["exact"][measure], part["exact"]["n"]) for part in one["by_kind"].values()]
            total = sum(value * (n if measure == "accuracy" else 1) for value, n in parts)
            whole = one["exact"]["n"] * (one["exact"]["accuracy"] if measure == "accuracy" else 1)
            assert total == pytest.approx(whole, abs=0.01)
        nats = [part["answer_nats"] * part["exact"]["n"] for part in one["by_kind"].values()]
        assert sum(nats) / one["exact"]["n"] == pytest.approx(one["answer_nats"], abs=1e-3)
    kind = min(keys)
    alone = [replace(row, answers=tuple(answer for answer in row.answers if answer.fact.key == kind)) for row in rows]
    expected = recall_in_windows(*nets, alone, budgets=(256,), tail_blocks=4, only=("gists",))["256/gists/real"]
    found = report["256/gists/real"]["by_kind"][kind]
    assert "by_kind" not in expected, "there is one kind"
    assert {name: expected[name] for name in found} == found
    assert "closure" in found


def test_closures_go_from_recency_to_the_ceiling() -> None:
    recency, full, nats = {(0, 1): 3.0, (1, 1): 5.0}, {(0, 1): 1.0, (1, 1): 1.0}, {(0, 1): 2.5, (1, 1): 3.0}
    found: dict[str, Any] = {"by_kind": {"code": {}, "room": {}}}
    memory_scoring._add_closures(found, recency, {"closure": full}, nats, {(0, 1): "code", (1, 1): "room"})
    assert found["closure"] == pytest.approx((0.5 + 2) / (2 + 4), abs=1e-4)
    assert [found["by_kind"][kind]["closure"] for kind in ("code", "room")] == [0.25, 0.5]


def test_ratios_are_those_of_windows_with_wider_gists(nets: tuple[Core, GistNet], source: TextSource) -> None:
    rows = [recall_row(source, Random(seed), 1024) for seed in range(3)]
    report = recall_by_ratio(*nets, rows, widths=(4, 1), tail_blocks=4)
    assert list(report)[:3] == ["full", "8:1/recency", "8:1/gists/real"]
    assert report["32:1/gists/real"]["entries"] == 4 * 32 + 28
    for width, ratio in ((4, "8:1"), (1, "32:1")):
        budget = 4 * 32 + 28 * width
        same = recall_in_windows(
            *nets,
            rows,
            budgets=(budget,),
            tail_blocks=4,
            gist_width=width,
            only=("gists",),
            controls=("real", "shuffled"),
        )
        for name in ("recency", "gists/real", "gists/shuffled"):
            expected = {key: value for key, value in same[f"{budget}/{name}"].items() if key != "closure_of_plain"}
            assert report[f"{ratio}/{name}"] == {"entries": budget} | expected
        assert report["full"] == same["full"]


def test_the_lens_opens_what_it_values_for_each_question(nets: tuple[Core, GistNet], source: TextSource) -> None:
    torch.manual_seed(0)
    lens_net = LensNet(LensNetConfig(width=nets[0].config.width, num_heads=2, key_dim=8, mlp_width=16))
    with torch.no_grad():
        for weight in (lens_net.match_weight, lens_net.told_weight, lens_net.up.weight, lens_net.down.weight):
            weight.zero_()
        lens_net.up.weight[0, FEATURES.index("lexical") - len(FEATURES)] = 20.0  # it goes by the words alone
        lens_net.down.weight[0, 0] = 1.0
    choose = lens_opens(*nets, lens_net, tail_blocks=4)
    num_asked = 0
    for seed in range(12):
        row = recall_row(source, Random(seed), 1024)
        asked = [answer for answer in row.answers if answer.start >= 896 and answer.evidence[0][1] <= 896]
        asked = [one for one in asked if not any(o.fact == one.fact and o.start < one.start for o in row.answers)]
        is_open = choose(row, 7, 32)
        assert is_open[-4:].all()
        assert is_open.sum() == 7
        num_asked += len(asked)
        far = row.tokens_T[:896].reshape(28, 32)
        for answer in sorted(asked, key=lambda answer: -answer.start)[:3]:
            query = row.tokens_T[max(896, answer.asked - 64) : answer.asked]
            assert is_open[lexical_scores(far, query).argmax()]
    assert num_asked > 12
    report = recall_in_windows(
        *nets,
        [recall_row(source, Random(seed), 1024) for seed in range(2)],
        budgets=(256,),
        tail_blocks=4,
        lens_net=lens_net,
    )
    assert {f"256/lens/{control}" for control in ("real", "shuffled", "none")} < set(report)


def test_questions_are_asked_apart_and_no_row_meets_itself(source: TextSource) -> None:
    rows = [recall_row(source, Random(seed), 1024) for seed in range(6)]
    batches = memory_scoring._one_question_each(rows, tail_tokens=128, batch_rows=4)
    asked = [answer for batch in batches for row in batch for answer in row.answers]
    expected = [answer for row in rows for answer in memory_scoring._asked_in_tail(row, 128)]
    assert len(expected) > len(rows)
    assert sorted(asked, key=str) == sorted(expected, key=str)
    for batch in batches:
        assert 1 < len(batch) <= 4
        assert all(len(row.answers) <= 1 for row in batch)
        assert len({row.tokens_T.tobytes() for row in batch}) == len(batch)


def test_words_open_what_shares_them_with_the_question(source: TextSource) -> None:
    rows = [recall_row(source, Random(seed), 1024) for seed in range(12)]
    hits = []
    for batch in memory_scoring._one_question_each(rows, tail_tokens=128, batch_rows=4):
        for row in batch:
            is_open = memory_scoring.words_open(tail_blocks=4)(row, 7, 32)
            assert is_open[-4:].all()
            assert is_open.sum() == 7
            hits += [bool(is_open[start // 32]) for answer in row.answers for start, _ in answer.evidence]
    assert np.mean(hits) > 0.5, "3 of 28 blocks by chance"


def test_a_plain_model_is_asked_the_same_questions(nets: tuple[Core, GistNet], source: TextSource) -> None:
    rows = [recall_row(source, Random(seed), 1024) for seed in range(3)]

    def logits(ids_BT: torch.Tensor) -> torch.Tensor:
        mu_BT, sigma_BT = torch.arange(ids_BT.shape[1]).double()[None], torch.zeros(1, ids_BT.shape[1])
        return nets[0].logits(nets[0](nets[0].embed(ids_BT), mu_BT, sigma_BT).hidden_BTD)

    plain, nats = plain_recall(logits, rows, tail_tokens=4 * 32)
    report = recall_in_windows(*nets, rows, budgets=(512,), tail_blocks=4, plain=logits)
    assert report["plain"] == plain
    assert plain["exact"] == report["full"]["exact"]
    assert plain["answer_nats"] == pytest.approx(report["full"]["answer_nats"], abs=1e-3)
    assert plain["exact"]["n"] == len(nats) > 0
    for name, one in report.items():
        assert ("closure_of_plain" in one) == (name.count("/") == 2)


@pytest.mark.parametrize(("num_rows", "sizes"), [(8, [4, 4]), (9, [4, 5]), (10, [4, 4, 2]), (1, [1]), (5, [5])])
def test_no_row_is_alone_in_a_batch(num_rows: int, sizes: list[int]) -> None:
    rows = plain_rows(num_rows, 8)
    batches = batches_of(rows, 4)
    assert [len(batch) for batch in batches] == sizes
    assert [id(row) for batch in batches for row in batch] == [id(row) for row in rows]


def test_a_budget_without_room_is_refused(nets: tuple[Core, GistNet]) -> None:
    with pytest.raises(InvalidValueError, match="a budget of 40 entries"):
        recall_in_windows(*nets, plain_rows(2, 1024), budgets=(40,))
