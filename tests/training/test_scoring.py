"""Scores: known models get the scores that arithmetic gives them."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from megacontext.training.recall import Asking
from megacontext.training.rows import recall_row
from megacontext.training.scoring import bits_per_byte, far_copy, right_answers, share, token_nlls
from megacontext.training.tokens import TokenStore, token_bytes
from megacontext.training.windows import TextSource

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


def test_a_share_comes_with_its_error() -> None:
    assert share([True, False, True, True]) == {"accuracy": 0.75, "standard_error": 0.2165, "n": 4}
    assert math.isnan(share([])["accuracy"])
