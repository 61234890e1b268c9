"""Needles keep to RULER's definitions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.evaluation.tasks.setups import num_tokens, setup, text_of

from megacontext.evaluation.data_folder import DataFolder
from megacontext.evaluation.tasks.needle import KINDS, NOISE, NeedleTask
from megacontext.evaluation.tasks.task import Question

NEEDLE = re.compile(r"One of the special magic (numbers|uuids) for (\S+) is: (\S+)\.")
COUNTS = {"single 1": (1, 1), "multi-key 1": (4, 1), "multi-value": (4, 4), "multi-query": (4, 4)}


@pytest.fixture(scope="module")
def cases() -> dict[str, tuple[str, Question]]:
    found = {}
    for plan in NeedleTask().plans(setup()):
        case = plan.make()
        (item,) = case.items
        assert isinstance(item, Question)
        found[plan.facets["kind"]] = (text_of(case), item)
    return found


def test_all_kinds_are_there(cases: dict[str, tuple[str, Question]]) -> None:
    assert set(cases) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_value_stands_once_in_its_evidence(kind: str, cases: dict[str, tuple[str, Question]]) -> None:
    text, item = cases[kind]
    for value, sentence in zip(item.expected, item.evidence, strict=True):
        assert isinstance(sentence, str)
        assert value in sentence
        assert text.count(sentence) == text.count(value) == 1
        assert value in item.gold
    assert not any(value in item.text for value in item.expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_question_names_the_keys_of_the_values(kind: str, cases: dict[str, tuple[str, Question]]) -> None:
    text, item = cases[kind]
    by_value = {value: key for _, key, value in NEEDLE.findall(text)}
    assert {by_value[value] for value in item.expected} == {
        key for key in by_value.values() if re.search(rf"(?<![\w-]){re.escape(key)}(?![\w-])", item.text)
    }


@pytest.mark.parametrize("kind", COUNTS)
def test_counts_are_rulers(kind: str, cases: dict[str, tuple[str, Question]]) -> None:
    text, item = cases[kind]
    assert (len(NEEDLE.findall(text)), len(item.expected)) == COUNTS[kind]


def test_haystacks_of_needles_and_of_noise(cases: dict[str, tuple[str, Question]]) -> None:
    for kind in ("multi-key 2", "multi-key 3"):
        text, _ = cases[kind]
        assert all(NEEDLE.fullmatch(line) for line in text.splitlines())
        assert len(NEEDLE.findall(text)) > 15
    lines = cases["single 1"][0].splitlines()
    assert lines.count(NOISE) == len(lines) - 1
    uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    assert uuid.fullmatch(cases["single 3"][1].expected[0])
    assert re.fullmatch(r"\d{7}", cases["single 1"][1].expected[0])


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_count_everything(kind: str, cases: dict[str, tuple[str, Question]]) -> None:
    text, item = cases[kind]
    total = num_tokens(text) + num_tokens(item.text) + max(num_tokens(item.gold), item.max_new_tokens) + 16
    assert 0.8 * 2048 < total <= 2048


def test_the_same_seed_gives_the_same_histories_in_any_order() -> None:
    first, again = NeedleTask().plans(setup()), NeedleTask().plans(setup())
    assert [plan.make() for plan in first[1:3]] == [plan.make() for plan in again[2:0:-1]][::-1]
    other = NeedleTask().plans(setup(seed=1))
    assert other[1].make() != first[1].make()


def test_word_lists_come_from_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "ruler").mkdir()
    for name in ("noun", "adjective", "verb"):
        words = "\n".join(f"{name}{letter}{number}" for letter in "abc" for number in range(30))
        (tmp_path / "ruler" / f"{name}list.txt").write_text(words)
    plan = NeedleTask().plans(setup(data=DataFolder(tmp_path)))[0]
    (item,) = plan.make().items
    assert re.search(r"for adjective\w+-noun\w+ ", item.text)  # type: ignore[union-attr]
