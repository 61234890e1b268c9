"""Each generator keeps to the definition that its task names."""

from __future__ import annotations

import json
import lzma
import pickle
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.tasks.setups import HANDLE, num_tokens, setup

from megacontext.errors import CorruptionError, InvalidValueError
from megacontext.evaluation.data_folder import BUILT_IN, FILES, DataFolder
from megacontext.evaluation.runs.histories import EvidenceFinder
from megacontext.evaluation.tasks.gist_failures import DIGITS
from megacontext.evaluation.tasks.needle import NOISE
from megacontext.evaluation.tasks.registry import TASKS, tasks_of
from megacontext.evaluation.tasks.task import Case, Choice, Continuation, Item, Question

STORY = {
    "task_no": 1,
    "split": "test",
    "facts": [[1, "Mary moved to the garden."], [2, "John went to the hall."], [4, "Mary went to the attic."]],
    "questions": [[3, "Where is Mary?", "garden", [1]], [5, "Where is Mary?", "attic", [4]]],
}
LINES = [f"line some-{word}: REGISTER_CONTENT is <{10_000 + number}>" for number, word in enumerate("abcdefgh" * 30)]
LINES = [line.replace("some-", f"some{number}-") for number, line in enumerate(LINES)]
LONGEVAL = {
    "prompt": "Below is a record.\n\n" + "\n".join(LINES) + "\n\nNow the record is over. Tell me ...",
    "random_idx": ["some17-b", 17],
    "expected_number": 10_017,
    "correct_line": LINES[17] + "\n",
}


def write_records(path: Path, records: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress("\n".join(map(json.dumps, records)).encode()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    """A folder that holds a little of everything."""
    folder = tmp_path_factory.mktemp("data")
    for name, words in BUILT_IN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(words))
    books = [{"title": str(at), "author": "", "text": book} for at, book in enumerate(DataFolder().books)]
    write_records(folder / "books/books_test.jsonl.xz", books)
    pages = [{"id": f"doc-{number}", "text": f"Page {number} speaks of pods.\n\n" * 60} for number in range(200)]
    write_records(folder / "knowledge/docs.jsonl.xz", pages)
    stories = [STORY | {"task_no": number} for number in range(1, 21)] + [STORY | {"split": "train", "facts": []}]
    write_records(folder / "babi/babi_en_1k.jsonl.xz", stories)
    write_records(folder / "longeval/lines.jsonl.xz", [LONGEVAL])
    return DataFolder(folder)


def cases_of(name: str, data: DataFolder, **changes: Any) -> list[Case]:
    return [plan.make() for plan in TASKS[name].plans(setup(data=data, num_samples=1, **changes))]


def tokens_of(case: Case) -> Any:
    (document,) = case.documents
    return document.token_ids if len(document.token_ids) else HANDLE.codec.encode(document.text).token_ids


def told(case: Case, item: Item) -> list[str]:
    """The words at each evidence span."""
    token_ids = tokens_of(case)
    finder = EvidenceFinder(HANDLE.codec, token_ids)
    return [HANDLE.codec.decode(token_ids[start:stop]) for start, stop in finder.spans(item.evidence)]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_makes_histories_of_its_length_with_evidence_in_them(name: str, data: DataFolder) -> None:
    task = TASKS[name]
    assert task_says_what_it_is(name)
    length = 4096 if name == "words" else 2048
    plans = task.plans(setup(data=data, num_samples=1, lengths=(length,)))
    assert len({plan.key for plan in plans}) == len(plans)
    for plan in plans[:3]:
        case = plan.make()
        assert case.items
        longest = max(room_for(item) for item in case.items)
        assert 0.85 * length < len(tokens_of(case)) + longest <= length
        for item in case.items:
            told(case, item)  # every evidence stands once
            assert set(task.columns) - {"window"} <= {*plan.facets, *item.facets} | {"window"}
        assert pickle.dumps(plan.make()) == pickle.dumps(case)  # arrays have no ==


def task_says_what_it_is(name: str) -> bool:
    task = TASKS[name]
    return task.name == name and all((task.summary, task.source, task.metrics, task.columns))


def room_for(item: Item) -> int:
    if isinstance(item, Continuation):
        return len(item.target_ids) + num_tokens(item.cue)
    answers = item.options if isinstance(item, Choice) else (item.gold,)
    longest = max(map(num_tokens, answers))
    return num_tokens(item.text) + max(longest, item.max_new_tokens if isinstance(item, Question) else 0) + 12


def test_variables_are_a_chain_in_order(data: DataFolder) -> None:
    (case,) = cases_of("variables", data)
    (item,) = case.items
    assert isinstance(item, Question)
    lines = case.documents[0].text.splitlines()
    chain = [line for line in lines if line != NOISE]
    names = [re.match(r"VAR ([A-Z]{5}) = ", line).group(1) for line in chain]  # type: ignore[union-attr]
    assert tuple(names) == item.expected
    assert len(names) == 5  # four hops
    assert chain[0].split(" = ")[1] in item.text
    assert [line.split(" = VAR ")[1] for line in chain[1:]] == names[:-1]


def test_common_words_come_thirty_times_and_others_three_times(data: DataFolder) -> None:
    (case,) = cases_of("words", data, lengths=(4096,))
    (item,) = case.items
    assert isinstance(item, Question)
    entries = re.findall(r"(\d+)\. (\w+)", case.documents[0].text)
    assert [int(number) for number, _ in entries] == list(range(1, len(entries) + 1))
    counts = Counter(word for _, word in entries)
    assert {word for word, count in counts.items() if count == 30} == set(item.expected)
    assert len(item.expected) == 10
    assert set(counts.values()) == {3, 30}


def test_a_list_too_short_for_its_words_is_an_error(data: DataFolder) -> None:
    with pytest.raises(InvalidValueError, match="a length of 1024 cannot hold 10 words 30 times"):
        cases_of("words", data, lengths=(1024,))


def test_a_list_of_too_few_words_for_its_length_is_an_error(data: DataFolder) -> None:
    with pytest.raises(InvalidValueError, match="a length of 32768 takes more different words than the"):
        cases_of("words", data, lengths=(32_768,))
    usual = TASKS["words"].plans(setup(data=DataFolder(), is_quick=False, num_samples=1))
    assert [plan.facets["length"] for plan in usual] == ["4 k"], "the built-in lists reach no further"


def test_lines_that_do_not_fill_a_length_are_refused(data: DataFolder) -> None:
    with pytest.raises(InvalidValueError, match="a length of 16384 is more than the longest case"):
        cases_of("lines", data, lengths=(16_384,))


def test_a_story_longer_than_its_length_is_not_told(tmp_path: Path, data: DataFolder) -> None:
    long = [[number, f"Mary moved to room {number}."] for number in range(1, 200)]
    asked = [[200, "Where is Mary?", "attic", [199]]]
    stories = [STORY | {"task_no": number} for number in range(1, 6)]
    stories += [STORY | {"task_no": 1, "facts": long, "questions": asked}] * 5
    write_records(tmp_path / "babi/babi_en_1k.jsonl.xz", stories)
    write_records(tmp_path / "books/books_test.jsonl.xz", data.records("books/books_test.jsonl.xz", dict))
    folder = DataFolder(tmp_path)
    for plan in TASKS["babi"].plans(setup(data=folder, lengths=(1024,), num_samples=4))[:4]:
        assert len(tokens_of(plan.make())) <= 1024
    write_records(tmp_path / "babi/babi_en_1k.jsonl.xz", [*stories[1:5], stories[-1]])
    with pytest.raises(InvalidValueError, match="a length of 1024 holds no story of qa1"):
        TASKS["babi"].plans(setup(data=folder, lengths=(1024,)))[0].make()


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


@pytest.mark.parametrize(
    ("name", "record", "said"),
    [
        ("babi", STORY | {"facts": 5}, r"line 6 is no record of this kind \(TypeError: .*\); correct it, or leave"),
        ("babi", without(STORY, "split"), "line 6: the record has no 'split'; give it one"),
        ("babi", without(STORY, "questions"), r"line 6 is no record of this kind \(KeyError: 'questions'\)"),
        (
            "babi",
            STORY | {"task_no": "1"},
            "line 6: task_no is 1; choose a whole number|line 6: task_no is '1'; choose",
        ),
        ("babi", STORY | {"questions": []}, "line 6: the story has no questions; give it one"),
        ("babi", STORY | {"questions": [[3, "Where?", 5, [1]]]}, "line 6: an answer is 5, of type int; give a str"),
        (
            "babi",
            STORY | {"questions": [[3, "Where?", "attic", [4]]]},
            "line 6: the question 'Where.' takes the line 4",
        ),
        ("lines", LONGEVAL | {"prompt": 5}, "line 6: 'prompt' is 5, of type int; give a str"),
        ("lines", LONGEVAL | {"prompt": "nothing"}, "line 6: its prompt and correct_line do not both say"),
        ("lines", LONGEVAL | {"correct_line": "line 5"}, "line 6: its prompt and correct_line do not both say"),
        ("lines", LONGEVAL | {"expected_number": "x"}, "line 6: expected_number is 'x'; choose a whole number"),
        ("lines", LONGEVAL | {"expected_number": 3}, "do not both say 'line some17-b: REGISTER_CONTENT is <3>'"),
        ("lines", LONGEVAL | {"random_idx": 5}, r"line 6 is no record of this kind \(TypeError: "),
    ],
)
def test_a_record_that_a_task_cannot_use_is_told_with_its_line(
    name: str, record: dict[str, Any], said: str, tmp_path: Path, data: DataFolder
) -> None:
    (file,) = TASKS[name].needs
    good = [STORY | {"task_no": kind} for kind in range(1, 6)] if name == "babi" else [LONGEVAL] * 5
    write_records(tmp_path / file, good)
    TASKS[name].plans(setup(data=DataFolder(tmp_path)))
    write_records(tmp_path / file, [*good, record])
    with pytest.raises(InvalidValueError, match=said) as caught:
        TASKS[name].plans(setup(data=DataFolder(tmp_path)))
    assert str(caught.value).startswith(str(tmp_path / file))
    assert "\n" not in str(caught.value)


def test_stories_of_each_kind_have_to_be_there(tmp_path: Path) -> None:
    write_records(tmp_path / "babi/babi_en_1k.jsonl.xz", [STORY, STORY | {"task_no": 2, "split": "train"}])
    with pytest.raises(
        InvalidValueError, match=r"babi_en_1k\.jsonl\.xz has no stories of qa2 in the split 'test'; give"
    ):
        TASKS["babi"].plans(setup(data=DataFolder(tmp_path)))


def test_a_line_with_a_name_of_several_words_is_asked_for(tmp_path: Path) -> None:
    line = "line some dust storm: REGISTER_CONTENT is <10017>"
    record = {"random_idx": ["some dust storm", 17], "correct_line": line}
    record["prompt"] = LONGEVAL["prompt"].replace(LINES[17], line)
    write_records(tmp_path / "longeval/lines.jsonl.xz", [LONGEVAL | record])
    (case, *_) = cases_of("lines", DataFolder(tmp_path))
    assert line in case.documents[0].text.splitlines()


def test_lines_are_a_part_of_a_shipped_case_in_order(data: DataFolder) -> None:
    for case in cases_of("lines", data):
        (item,) = case.items
        assert isinstance(item, Question)
        lines = case.documents[0].text.splitlines()
        places = [LINES.index(line) for line in lines]
        assert places == sorted(places)
        assert 10 < len(lines) < len(LINES)
        assert LINES[17] in lines
        assert item.expected == ("10017",)
        assert "some17-b" in item.text


def test_babi_facts_stand_in_order_up_to_the_question(data: DataFolder) -> None:
    cases = cases_of("babi", data)
    assert len(cases) == 5
    for case in cases:
        choice, question = case.items
        assert isinstance(choice, Choice)
        assert isinstance(question, Question)
        text = HANDLE.codec.decode(tokens_of(case))
        known = [fact for line, fact in STORY["facts"] if fact in text]  # type: ignore[attr-defined]
        assert choice.options == ("attic", "garden")
        right = choice.options[choice.right]
        assert question.expected == (right,)
        assert len(known) == {"garden": 2, "attic": 3}[right]
        places = [text.index(fact) for fact in known]
        assert places == sorted(places)
        (statement,) = told(case, question)
        assert right in statement
        assert "<" not in "".join(known)


def test_the_boundary_is_where_whole_blocks_end(data: DataFolder) -> None:
    (case,) = cases_of("boundary", data)
    (item,) = case.items
    assert isinstance(item, Continuation)
    assert len(tokens_of(case)) % 32 == 0
    assert Counter(item.labels) == {
        "offset 0-3": 4,
        "offset 4-7": 4,
        "offset 8-15": 8,
        "offset 16-31": 16,
        "offset 32-63": 32,
    }
    assert {metric.name for metric in TASKS["boundary"].metrics} == {"all", *item.labels}


def test_quotations_are_cue_and_rest_of_sentences_of_both_kinds(data: DataFolder) -> None:
    (case,) = cases_of("surprise", data)
    assert Counter(item.facets["sentence"] for item in case.items) == {"own": 2, "foreign": 2}
    for item in case.items:
        assert isinstance(item, Continuation)
        quoted = item.cue.strip() + HANDLE.codec.decode(item.target_ids)
        assert item.evidence == (quoted,)


def test_sentences_are_quoted_from_novels_with_short_lines_too(tmp_path: Path) -> None:
    sentence = (
        "The keeper of the lamp, who had seen\nmany ships go by in number {}, lit it once more and went down to\nsleep."
    )
    novels = [
        {
            "title": "",
            "author": "",
            "text": "\n\n".join(
                [" ".join(sentence.format(one + at) for at in range(first, first + 5)) for first in range(0, 300, 5)]
            ),
        }
        for one in (0, 300)
    ]
    write_records(tmp_path / "books/books_test.jsonl.xz", novels)
    (case,) = cases_of("surprise", DataFolder(tmp_path))
    assert len(case.items) == 4
    write_records(
        tmp_path / "books/books_test.jsonl.xz", [{"title": "", "author": "", "text": "Too short.\n\n" * 3000}]
    )
    with pytest.raises(InvalidValueError, match="hold two sentences of 14 to 40 words"):
        cases_of("surprise", DataFolder(tmp_path))


def test_long_numbers_are_labelled_digit_by_digit(data: DataFolder) -> None:
    (case,) = cases_of("way", data)
    (item,) = case.items
    assert isinstance(item, Continuation)
    (statement,) = told(case, item)
    digits = HANDLE.codec.decode(item.target_ids).strip()
    assert len(digits) == DIGITS
    assert statement.strip() == f"{item.cue.strip()} {digits}."
    counts = Counter(item.labels) - Counter({"": 1})
    assert set(counts) == {"digits 1-8", "digits 9-16", "digits 17-24", "digits 25-32"}
    assert {metric.name for metric in TASKS["way"].metrics} == {"all", *counts}


def test_events_are_asked_in_the_order_in_which_they_stand(data: DataFolder) -> None:
    (case,) = cases_of("order", data)
    assert len(case.items) == 6
    text = case.documents[0].text
    for item in case.items:
        assert isinstance(item, Choice)
        first = min(item.options, key=text.index)
        assert item.options[item.right] == first
        assert all(option.rstrip(".") in item.text for option in item.options)
    assert {item.right for case in cases_of("order", data, seed=1) for item in case.items} == {0, 1}  # type: ignore[union-attr]


def test_events_stand_in_the_quarter_that_is_right(data: DataFolder) -> None:
    (case,) = cases_of("place", data)
    token_ids = tokens_of(case)
    finder = EvidenceFinder(HANDLE.codec, token_ids)
    for number, item in enumerate(case.items):
        assert isinstance(item, Choice)
        assert item.right == number
        ((start, _),) = finder.spans(item.evidence)
        assert int(4 * start / len(token_ids)) == number


def test_windows_of_the_gap_are_shares_of_the_history(data: DataFolder) -> None:
    (plan,) = TASKS["gap"].plans(setup(data=data, num_samples=1, lengths=(4096,)))
    assert plan.windows == {1024: "1/4", 512: "1/8", 256: "1/16", 128: "1/32"}
    case = plan.make()
    assert Counter(type(item).__name__ for item in case.items) == {"Question": 4, "Continuation": 1}
    for item in case.items:
        if isinstance(item, Question):
            assert item.expected[0] in told(case, item)[0]


def test_text_comes_from_what_no_training_run_reads(data: DataFolder) -> None:
    domains = {plan.facets["domain"] for plan in TASKS["text"].plans(setup(data=data))}
    assert domains == {"books", "code", "knowledge"}
    assert {plan.facets["domain"] for plan in TASKS["text"].plans(setup())} == {"books", "code"}
    assert 0 < len(data.knowledge) < 30  # of 200 pages
    assert len(data.code) > 5
    from megacontext.training.corpus import HELD_OUT_PAGE_SHARE, stable_share

    pages = data.records("knowledge/docs.jsonl.xz", dict)
    assert data.knowledge == [page["text"] for page in pages if stable_share(page["id"]) < HELD_OUT_PAGE_SHARE]


def test_levels_and_text_share_their_histories(data: DataFolder) -> None:
    one, other = (TASKS[name].plans(setup(data=data, lengths=(2048,)))[0].make() for name in ("text", "levels"))
    assert one.documents[0].token_ids.tolist() == other.documents[0].token_ids.tolist()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_it_reads(name: str, data: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is then said before a run begins, not when the first history is made."""
    task, folder, read = TASKS[name], DataFolder(data.folder), set()
    path = DataFolder.path

    def noted(self: DataFolder, file: str) -> Path:
        read.add(file)
        return path(self, file)

    monkeypatch.setattr(DataFolder, "path", noted)
    cases_of(name, folder)
    assert read == {*task.needs, *task.reads}
    assert not {*task.needs} & {*task.reads}


def test_a_folder_without_what_a_task_reads_is_refused(tmp_path: Path) -> None:
    (task,) = tasks_of(["gap"])
    DataFolder().require(task.name, task.needs, task.reads)  # which has its own
    with pytest.raises(InvalidValueError, match=r"books/books_test\.jsonl\.xz is not there; .*novels of the test side"):
        DataFolder(tmp_path).require(task.name, task.needs, task.reads)


def test_missing_data_is_named_with_what_it_should_be(tmp_path: Path) -> None:
    (task,) = tasks_of(["babi"])
    with pytest.raises(InvalidValueError, match=r"task babi reads babi/babi_en_1k\.jsonl\.xz .*--data"):
        DataFolder().require(task.name, task.needs)
    with pytest.raises(InvalidValueError, match=r"babi_en_1k\.jsonl\.xz is not there; .*bAbI stories"):
        DataFolder(tmp_path).require(task.name, task.needs)
    (tmp_path / "babi").mkdir()
    (tmp_path / "babi/babi_en_1k.jsonl.xz").write_bytes(b"no xz")
    with pytest.raises(CorruptionError, match=r"babi_en_1k\.jsonl\.xz is no whole xz file"):
        task.plans(setup(data=DataFolder(tmp_path)))
    for task in TASKS.values():
        assert set(task.needs) <= set(FILES)
