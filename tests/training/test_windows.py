"""Windows and cuts: a target is the true successor of its token, or it teaches nothing."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from tokenizers import Tokenizer

from megacontext.errors import InvalidValueError
from megacontext.training.corpus import Document
from megacontext.training.curriculum import ROWS
from megacontext.training.cuts import cut_row
from megacontext.training.rows import dense_row, plain_row, recall_row
from megacontext.training.tokens import TokenStore, encode_documents
from megacontext.training.windows import Strip, TextSource

COUNTERS = 500


class CountingSource(TextSource):
    """Text in which token i is always followed by token i + 1: a wrong successor shows."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = np.arange(200_000) % COUNTERS
        store = TokenStore(ids_N=ids.astype(np.uint16), starts_D=np.array([0]), names=("count",))
        super().__init__(tokenizer, {"books": store}, {"books": 1.0})


@pytest.mark.parametrize("length", [512, 1024, 2048])
@pytest.mark.parametrize("num_lone", [None, 40, 300])
def test_a_cut_learns_only_from_true_successors(tokenizer: Tokenizer, length: int, num_lone: int | None) -> None:
    source = CountingSource(tokenizer)
    for seed in range(20):
        row = cut_row(source, Random(seed), length, recall=False, num_lone=num_lone)
        learnt = row.weights_T > 0
        follows = row.targets_T == (row.tokens_T + 1) % COUNTERS
        assert follows[learnt].all()
        shown_next = row.tokens_T[1:] == (row.tokens_T[:-1] + 1) % COUNTERS
        assert learnt[:-1][~shown_next].sum() <= length / 32  # only ends of opened runs look beyond the window
        if num_lone is not None:
            num_room = length - 32 - length // 2
            assert (~learnt).sum() >= min(num_lone, num_room)


def test_a_cut_starts_with_its_first_block_and_ends_with_running_text(tokenizer: Tokenizer) -> None:
    source = CountingSource(tokenizer)
    for seed in range(20):
        row = cut_row(source, Random(seed), 1024, recall=False)
        assert (np.diff(row.tokens_T[:32]) % COUNTERS == 1).all()
        assert (np.diff(row.tokens_T[-128:]) % COUNTERS == 1).all()


def test_asked_facts_of_a_cut_stand_in_opened_blocks(source: TextSource) -> None:
    num_seen = 0
    for seed in range(40):
        row = cut_row(source, Random(seed), 1024)
        for answer in row.answers:
            end_of_statement = answer.start - answer.distance
            assert (row.weights_T[end_of_statement - 6 : end_of_statement] > 0).all()
            num_seen += 1
    assert num_seen > 40


@pytest.mark.parametrize("make", [plain_row, dense_row, recall_row, cut_row])
def test_targets_are_shifted_by_one_wherever_the_row_runs_on(make, source: TextSource) -> None:  # type: ignore[no-untyped-def]
    for seed in range(20):
        row = make(source, Random(seed), 512)
        assert row.tokens_T.shape == row.targets_T.shape == row.weights_T.shape == (512,)
        learnt = row.weights_T[:-1] > 0
        shown_next = row.targets_T[:-1] == row.tokens_T[1:]
        assert (shown_next | ~learnt).mean() > 0.9
        if make in (plain_row, recall_row):
            assert shown_next[learnt].all()


def test_joined_text_is_learnt_across_the_seam_and_cut_text_is_not() -> None:
    strip = Strip()
    strip.add_text([10, 11])
    strip.add_text([12, 13])
    strip.add_lone([40, 41])
    strip.add_text([20, 21], joined=False)
    row = strip.window(8)
    assert row.weights_T.tolist() == [1, 1, 1, 0, 0, 0, 1, 0]
    assert row.targets_T[:3].tolist() == [11, 12, 13]


def test_numbers_are_encoded_digit_by_digit_and_documents_end(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(" 48213.").tokens == ["Ġ", "4", "8", "2", "1", "3", "."]
    store = encode_documents(
        tokenizer, [Document(name="a", domain="books", text="one"), Document(name="b", domain="books", text="two")]
    )
    assert store.ids_N[store.starts_D[1] - 1] == tokenizer.token_to_id("<|endoftext|>")
    assert store.names == ("a", "b")


@pytest.mark.parametrize("length", [1, 47])
def test_a_row_without_room_for_quotations_is_refused(source: TextSource, length: int) -> None:
    with pytest.raises(
        InvalidValueError, match=f"a row of {length} tokens has no room for quotations; use at least 48"
    ):
        ROWS["quotes"](source, Random(0), length)
    assert len(ROWS["quotes"](source, Random(0), 48).tokens_T) == 48


def test_rows_with_hardly_any_text_can_be_made(source: TextSource) -> None:
    assert source.openings(np.zeros(0, dtype=np.uint16), "books").tolist() == []
    for seed in range(20):
        ROWS["strewn"](source, Random(seed), 40)
