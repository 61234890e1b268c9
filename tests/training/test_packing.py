"""Packing: rows are full of text that teaches; only cut windows hold tokens that predict nothing, by design."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from tokenizers import Tokenizer

from megacontext.training.babi import parse_story
from megacontext.training.corpus import Document
from megacontext.training.curriculum import ROWS
from megacontext.training.packing import packing
from megacontext.training.tokens import TokenStore, encode_documents
from megacontext.training.windows import TextSource, Window

STORY = "1 Mary moved to the mill.\n2 John went to the town.\n3 Where is Mary?\tmill\t1\n"


@pytest.fixture(scope="module")
def told(tokenizer: Tokenizer, stores: dict[str, TokenStore]) -> TextSource:
    """Prose, code and a story."""
    assert parse_story("qa1/en/0", STORY).questions
    story = encode_documents(tokenizer, [Document(name="qa1/en/0", domain="babi", text=STORY)])
    return TextSource(tokenizer, {**stores, "babi": story}, {"books": 0.5, "code": 0.5})


@pytest.mark.parametrize("row_kind", [kind for kind in ROWS if not kind.startswith("cut_")])
def test_hardly_a_position_is_wasted(row_kind: str, told: TextSource) -> None:
    length = 768 if row_kind.startswith("spread") else 512  # its sixteen blocks alone are 512
    measured = packing(told, ROWS[row_kind], length, [f"{row_kind}/{index}" for index in range(12)])
    assert measured.padding == 0
    assert measured.untaught < (0.06 if row_kind == "quotes" else 0.02)  # what a quotation begins with cannot be known
    assert (measured.answers > 0) == (row_kind not in ("plain", "quotes"))


@pytest.mark.parametrize("row_kind", ["cut_recall", "cut_plain"])
def test_cut_windows_read_single_tokens_but_hold_no_padding(row_kind: str, told: TextSource) -> None:
    length = 768 if row_kind.startswith("spread") else 512  # its sixteen blocks alone are 512
    measured = packing(told, ROWS[row_kind], length, [f"{row_kind}/{index}" for index in range(12)])
    assert measured.padding == 0
    assert 0.05 < measured.untaught < 0.6


def test_shares_are_counted_by_position(told: TextSource, tokenizer: Tokenizer) -> None:
    end, pad = tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|pad|>")

    def make(source: TextSource, random: Random, length: int) -> Window:
        tokens = np.full(length, 7)
        tokens[9], tokens[-10:] = end, pad
        weights = np.ones(length, np.float32)
        weights[-10:], weights[50:55] = 0, 6
        return Window(tokens_T=tokens, targets_T=tokens, weights_T=weights)

    measured = packing(told, make, 100, ["0"])
    assert (measured.padding, measured.untaught, measured.answers) == pytest.approx((0.1, 0.1, 0.05))
    assert measured.scraps == pytest.approx(0.19)  # ten tokens up to the end of a text, and nine of the padding
