"""Recall text: splits never meet, every question can be answered from the row."""

from __future__ import annotations

from random import Random

import pytest
from tokenizers import Tokenizer

from megacontext.training.cuts import cut_row
from megacontext.training.names import any_name, is_test, similar_name
from megacontext.training.recall import SPLIT_BY_VALUE, Asking, Fact, draw_facts
from megacontext.training.rows import dense_row, recall_row
from megacontext.training.windows import ANSWER_WEIGHT, Strip, TextSource, Window

ROWS = {"dense": (dense_row, 256), "recall": (recall_row, 1024), "cut": (cut_row, 1024)}


def test_the_splits_share_no_name_and_no_value() -> None:
    drawn = {test: draw_facts(Random(5), 2_000, Asking(test=test)) for test in (False, True)}
    for test, facts in drawn.items():
        assert all(is_test(fact.name) == test for fact in facts)
        assert all(is_test(fact.value) == test for fact in facts if fact.key in SPLIT_BY_VALUE)
    names = [{fact.name for fact in facts} for facts in drawn.values()]
    assert not names[0] & names[1]


def test_about_a_tenth_of_all_names_is_kept_for_the_test() -> None:
    random = Random(1)
    share = sum(is_test(any_name(random)) for _ in range(4_000)) / 4_000
    assert 0.07 < share < 0.13


def test_facts_of_a_row_do_not_contradict_each_other_and_some_are_alike() -> None:
    facts = draw_facts(Random(2), 500, Asking())
    keys = [(fact.name, fact.key) for fact in facts]
    assert len(set(keys)) == len(keys)
    assert len({fact.name for fact in facts}) < 480, "a few would be the same by chance"


def test_a_similar_name_shares_one_word() -> None:
    names = [similar_name(Random(seed), "Alice Smith") for seed in range(50)]
    for name in names:
        first, last = name.split()
        assert (first == "Alice") != (last == "Smith"), name
    assert len(set(names)) > 25


def test_the_product_prompt_is_exact() -> None:
    fact = Fact(name="Alice Smith", key="code", value="48213")
    asked = {fact.question(Random(seed), product=True) for seed in range(50)}
    assert ("\nQuestion: What is the code for Alice Smith?\nAnswer:", " 48213.\n") in asked
    assert all(ask.startswith("\nQuestion: ") and ask.endswith("?\nAnswer:") for ask, _ in asked)


@pytest.mark.parametrize("kind", ROWS)
def test_every_question_is_answerable_from_the_text_before_it(
    kind: str, source: TextSource, tokenizer: Tokenizer
) -> None:
    make, length = ROWS[kind]
    num_answers = 0
    for seed in range(60):
        row = make(source, Random(seed), length)
        for answer in row.answers:
            assert tokenizer.decode(row.targets_T[answer.start : answer.stop].tolist()).strip() == answer.fact.value
            assert (row.weights_T[answer.start : answer.stop] == ANSWER_WEIGHT).all()
            before = tokenizer.decode(row.tokens_T[: answer.start - answer.distance + 1].tolist())
            assert before.rstrip(".,'\")\n# abcdeghiklmnopqrstuvwxyz").endswith(answer.fact.value) or (
                answer.fact.value in before and answer.fact.name.lower() in before.lower()
            )
            num_answers += 1
    assert num_answers > 60


@pytest.mark.parametrize("length", [512, 2048])
@pytest.mark.parametrize("asking", [Asking(), Asking(test=True, key="code", product=True)])
def test_what_a_row_asks_fits_into_it(
    length: int, asking: Asking, source: TextSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read_off = Strip.window

    def window(strip: Strip, size: int) -> Window:
        asked.append(len(strip.answers))
        return read_off(strip, size)

    monkeypatch.setattr(Strip, "window", window)
    kept = [len(recall_row(source, Random(seed), length, asking).answers) for seed in range(60)]
    assert kept == asked


def test_distances_reach_from_near_to_the_whole_window(source: TextSource) -> None:
    distances = [answer.distance for seed in range(80) for answer in recall_row(source, Random(seed), 2048).answers]
    assert min(distances) < 40
    assert max(distances) > 1_800
    for low, high in ((64, 256), (256, 512), (512, 1024), (1024, 2048)):
        assert sum(low <= distance < high for distance in distances) > 20


def test_rows_are_a_function_of_their_seed(source: TextSource) -> None:
    for make, length in ROWS.values():
        first, second = make(source, Random(9), length), make(source, Random(9), length)
        assert (first.tokens_T == second.tokens_T).all()
        assert (first.weights_T == second.weights_T).all()
