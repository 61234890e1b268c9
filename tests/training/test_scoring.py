"""Scores: known models get the scores that arithmetic gives them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from megacontext.training import scoring
from megacontext.training.names import is_test
from megacontext.training.recall import Asking
from megacontext.training.rows import recall_row
from megacontext.training.scoring import (
    DISTANCES,
    bits_per_byte,
    cut_report,
    far_copy,
    recall_report,
    right_answers,
    share,
    token_nlls,
)
from megacontext.training.tokens import TokenStore, token_bytes
from megacontext.training.windows import Answer, TextSource, Window

VOCABULARY = 512


def uniform(ids_BT: Tensor) -> Tensor:
    """A model that knows nothing."""
    return torch.zeros(*ids_BT.shape, VOCABULARY)


class Prophet:
    """A model that has the row's targets before it."""

    def __init__(self, targets_T: np.ndarray) -> None:
        self.targets_T = torch.from_numpy(targets_T)

    def __call__(self, ids_BT: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(self.targets_T, VOCABULARY)[None].float() * 50


def test_a_model_that_knows_nothing_pays_the_log_of_the_vocabulary(
    tokenizer: Tokenizer, stores: dict[str, TokenStore]
) -> None:
    nlls = token_nlls(uniform, torch.arange(12).view(2, 6))
    assert nlls.shape == (2, 5)
    torch.testing.assert_close(nlls, torch.full((2, 5), math.log(VOCABULARY)))
    store = stores["books"]
    report = bits_per_byte(uniform, store, token_bytes(tokenizer), count=4)
    num_bytes = len(tokenizer.decode(store.ids_N.tolist()).encode())
    assert report["bits_per_byte"] == pytest.approx(9 * len(store.ids_N) / num_bytes, rel=0.05)
    assert far_copy(uniform, store, [b"x"] * VOCABULARY, count=3)["all_tokens"] == 0


def test_token_bytes_add_up_to_the_text(tokenizer: Tokenizer) -> None:
    text = "A quiet mill — naïve, 48213.\n"
    assert token_bytes(tokenizer)[tokenizer.encode(text).ids].sum() == len(text.encode())


def test_a_prophet_answers_everything_once_and_a_blank_model_nothing(source: TextSource) -> None:
    rows = [recall_row(source, Random(seed), 512, Asking(test=True)) for seed in range(10)]
    for row in rows:
        results = right_answers(Prophet(row.targets_T), [row])
        assert all(exact for _, _, exact in results)
        assert len(results) == len({answer.fact for answer in row.answers})
    assert not any(exact for _, _, exact in right_answers(uniform, rows))


class Knowing:
    """Makes rows, keeps them and how they ask, and has their targets before it when it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        make = getattr(scoring, name)
        self.made: list[tuple[Window, Asking, dict[str, Any]]] = []

        def noting(source: TextSource, random: Random, length: int, asking: Asking, **how: Any) -> Window:
            row: Window = make(source, random, length, asking, **how)
            self.made.append((row, asking, how))
            return row

        monkeypatch.setattr(scoring, name, noting)

    def __call__(self, ids_BT: Tensor) -> Tensor:
        (targets_T,) = (row.targets_T for row, _, _ in self.made if np.array_equal(row.tokens_T, ids_BT[0].numpy()))
        return Prophet(targets_T)(ids_BT)


def first_answers(rows: Iterable[Window]) -> list[Answer]:
    """One to each fact that a row asks for."""
    latest_first = (sorted(row.answers, key=lambda answer: -answer.start) for row in rows)
    return [answer for answers in latest_first for answer in {answer.fact: answer for answer in answers}.values()]


def test_recall_is_asked_of_names_that_training_never_saw(source: TextSource, monkeypatch: pytest.MonkeyPatch) -> None:
    knowing = Knowing(monkeypatch, "recall_row")
    report: Any = recall_report(knowing, source, count=5)
    assert [asking for _, asking, _ in knowing.made] == [
        Asking(test=True, key=key, product=True) for key in ("code", None) for _ in range(5)
    ]
    codes, kinds = (first_answers(row for row, _, _ in knowing.made[part]) for part in (slice(5), slice(5, None)))
    assert all(is_test(answer.fact.name) for answer in [*codes, *kinds])
    assert report["codes"] == share([True] * len(codes))
    assert {name: one["n"] for name, one in report["codes_by_distance"].items()} == {
        f"{low}-{high}": count
        for low, high in pairwise(DISTANCES)
        if (count := sum(low <= answer.distance < high for answer in codes))
    }
    assert report["by_kind"] == {
        key: share([True] * sum(answer.fact.key == key for answer in kinds))
        for key in sorted({answer.fact.key for answer in kinds})
    }
    assert len(report["by_kind"]) > 2
    assert recall_report(uniform, source, count=2)["codes"]["accuracy"] == 0  # type: ignore[index]


def test_recall_in_cuts_is_told_by_the_number_of_lone_tokens(
    source: TextSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    knowing = Knowing(monkeypatch, "cut_row")
    report = cut_report(knowing, source, count=4, lone=(40, 400))
    assert {asking for _, asking, _ in knowing.made} == {Asking(test=True, key="code", product=True)}
    assert [how for _, _, how in knowing.made] == [{"num_lone": 40}] * 4 + [{"num_lone": 400}] * 4
    for name, part in (("40", slice(4)), ("400", slice(4, None))):
        answers = first_answers(row for row, _, _ in knowing.made[part])
        assert all(is_test(answer.fact.name) for answer in answers)
        assert report[name] == share([True] * len(answers))
    assert set(report) == {"40", "400"}
    assert cut_report(uniform, source, count=2, lone=(40,))["40"]["accuracy"] == 0


def test_a_share_comes_with_its_error() -> None:
    assert share([True, False, True, True]) == {"accuracy": 0.75, "standard_error": 0.2165, "n": 4}
    assert share([]) == {"accuracy": None, "standard_error": None, "n": 0}, "as JSON can say it"
