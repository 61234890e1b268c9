"""Codes stand where they are said to stand, and are held out from training."""

from __future__ import annotations

from tests.evaluation.tasks.setups import HANDLE, num_tokens, setup, text_of

from megacontext.evaluation.held_out import is_held_out
from megacontext.evaluation.runs.histories import EvidenceFinder
from megacontext.evaluation.tasks.distance import DISTANCES, DistanceTask
from megacontext.evaluation.tasks.task import Question, length_name


def test_every_code_is_as_far_back_as_its_name_says() -> None:
    case = DistanceTask().plans(setup())[0].make()
    token_ids = HANDLE.codec.encode(text_of(case)).token_ids
    finder = EvidenceFinder(HANDLE.codec, token_ids)
    assert [item.facets["distance"] for item in case.items] == [length_name(d) for d in DISTANCES if d < 4096]
    for item, distance in zip(case.items, DISTANCES, strict=False):
        assert isinstance(item, Question)
        ((start, stop),) = finder.spans(item.evidence)
        assert item.expected[0] in HANDLE.codec.decode(token_ids[start:stop])
        assert 0.4 * distance < len(token_ids) - start < 1.1 * distance
        assert is_held_out(item.expected[0])
        assert item.expected[0] not in item.text
        assert item.gold.strip(" .") == item.expected[0]


def test_histories_leave_room_for_question_and_answer() -> None:
    case = DistanceTask().plans(setup())[0].make()
    assert 0.9 * 4096 < num_tokens(text_of(case)) <= 4096 - 64


def test_questions_repeat_their_statement_or_do_not() -> None:
    cases = [plan.make() for plan in DistanceTask().plans(setup(num_samples=4))]
    wordings = [item.facets["wording"] for case in cases for item in case.items]
    assert {"same words", "other words"} == set(wordings)
    for case in cases:
        for item in case.items:
            assert isinstance(item, Question)
            assert ("code" in item.text) == (item.facets["wording"] == "same words")
