"""bAbI: what a row tells and asks is what the story says, and what its evidence points to."""

from __future__ import annotations

import json
import lzma
import re
from pathlib import Path
from random import Random

import pytest
from tokenizers import Tokenizer

from megacontext.errors import InvalidValueError
from megacontext.training.babi import WORLDS, StoryBook, has_stories, parse_story, read_stories
from megacontext.training.babi_rows import babi_row
from megacontext.training.gist_cuts import GistCut, choose_open
from megacontext.training.moments import moments_of
from megacontext.training.puzzles import Puzzle
from megacontext.training.tokens import TokenStore, encode_documents
from megacontext.training.windows import TextSource

EXCERPT = Path(__file__).parent / "data" / "babi_excerpt.jsonl"


def write_stories(data: Path, records: list[dict[str, object]]) -> Path:
    """A data folder with these records in both files, as far as each may hold them."""
    (data / "babi").mkdir(parents=True)
    for name, some in (
        ("babi_en_1k", records),
        ("babi_en_10k_train", [record for record in records if record["split"] == "train"]),
    ):
        with lzma.open(data / "babi" / f"{name}.jsonl.xz", "wt") as lines:
            lines.writelines(json.dumps(record) + "\n" for record in some)
    return data


@pytest.fixture(scope="module")
def records() -> list[dict[str, object]]:
    return [json.loads(line) for line in EXCERPT.read_text().splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]]) -> Path:
    return write_stories(tmp_path_factory.mktemp("data"), records)


@pytest.fixture(scope="module")
def babi_source(data: Path, tokenizer: Tokenizer, stores: dict[str, TokenStore]) -> TextSource:
    """Prose and code, with the training stories of the excerpt."""
    told = encode_documents(tokenizer, read_stories(data, "train"))
    return TextSource(tokenizer, {**stores, "babi": told}, {"books": 0.5, "code": 0.5})


def test_each_story_is_read_once_and_no_test_story_is_trained_on(
    tmp_path: Path, records: list[dict[str, object]]
) -> None:
    told_twice = dict(next(record for record in records if record["split"] == "test"), split="train")
    data = write_stories(tmp_path, [*records, told_twice])
    train, test = (list(read_stories(data, split)) for split in ("train", "test"))
    assert len(train) == sum(record["split"] == "train" for record in records)
    assert len(test) == sum(record["split"] == "test" for record in records)
    assert not {story.text for story in train} & {story.text for story in test}
    with pytest.raises(InvalidValueError, match="'train' or 'test'"):
        list(read_stories(data, "valid"))


def test_a_story_survives_the_store(data: Path, records: list[dict[str, object]], babi_source: TextSource) -> None:
    book = babi_source.stories
    wanted = {
        f"qa{record['task_no']}/{record['variant']}/{record['story']}": record
        for record in records
        if record["split"] == "train"
    }
    assert set(book.store.names) == set(wanted)
    for index, name in enumerate(book.store.names):
        story, record = book.story(index), wanted[name]
        assert [list(pair) for pair in story.lines.items()] == record["facts"]
        assert [[n, ask, answer, sorted(lines)] for n, ask, answer, lines in record["questions"]] == [  # type: ignore[attr-defined]
            [n, ask, answer, list(lines)] for n, ask, answer, lines in story.questions
        ]
        assert story.task in WORLDS


@pytest.mark.parametrize("length", [256, 1024, 2048])
def test_rows_state_the_evidence_before_they_ask(babi_source: TextSource, tokenizer: Tokenizer, length: int) -> None:
    num_answers = num_lists = 0
    for seed in range(40):
        row = babi_row(babi_source, Random(seed), length)
        assert row.tokens_T.shape == row.targets_T.shape == row.weights_T.shape == (length,)
        learnt = row.weights_T[:-1] > 0
        assert (row.targets_T[:-1] == row.tokens_T[1:])[learnt].all()
        assert row.answers
        for answer in row.answers:
            puzzle = answer.fact
            assert isinstance(puzzle, Puzzle)
            said = tokenizer.decode(row.targets_T[answer.start : answer.stop].tolist()).strip()
            assert said == puzzle.value
            assert (row.weights_T[answer.start : answer.stop] > 1).all()
            assert answer.distance == answer.start - max(stop for _, stop in answer.evidence) >= 0
            for (start, stop), statement in zip(answer.evidence, puzzle.statements, strict=True):
                assert stop <= answer.start
                assert tokenizer.decode(row.tokens_T[start:stop].tolist()).removeprefix("\n#").strip() == statement
            assert puzzle.ask in tokenizer.decode(row.tokens_T[: answer.start + 1].tolist())
            num_answers += 1
            num_lists += "," in puzzle.value
    assert num_answers > 40
    assert num_lists > 0


def test_the_last_move_told_is_the_answer_whatever_else_is_told(babi_source: TextSource, tokenizer: Tokenizer) -> None:
    """A solver of the first task that reads the whole row: the other stories must not contradict it."""
    num_solved = 0
    for seed in range(120):
        row = babi_row(babi_source, Random(seed), 2048)
        for answer in row.answers:
            if answer.fact.key != "qa1":
                continue
            assert isinstance(answer.fact, Puzzle)
            who = answer.fact.ask.removeprefix("Where is ").removesuffix("?")
            text = tokenizer.decode(row.tokens_T[: answer.start + 1].tolist())
            moves = re.findall(rf"{who} (?:moved|went|journeyed|travelled)(?: back)? to the (\w+)\.", text)
            assert moves[-1] == answer.fact.value
            num_solved += 1
    assert num_solved > 30


def test_stories_of_a_row_are_of_different_worlds(babi_source: TextSource) -> None:
    most = 0
    for seed in range(40):
        row = babi_row(babi_source, Random(seed), 2048)
        stories = {answer.fact.subjects[0] for answer in row.answers if isinstance(answer.fact, Puzzle)}
        worlds = [WORLDS[name.split("/")[0]] for name in stories]
        assert len(worlds) == len(set(worlds))
        most = max(most, len(worlds))
    assert most >= 4


def test_evidence_opens_blocks_and_labels_the_lens(babi_source: TextSource) -> None:
    num_moments = 0
    cut = GistCut(shapes=[(32, 1)], num_tail=2, num_open=40, open_answers=1.0)
    for seed in range(20):
        row = babi_row(babi_source, Random(seed), 2048)
        is_open_N = choose_open(row, cut, block_tokens=32, random=Random(seed))
        stated = {
            block
            for answer in row.answers
            for start, stop in answer.evidence
            for block in (start // 32, (stop - 1) // 32)
        }
        assert is_open_N[sorted(stated)].mean() > (0.99 if len(stated) <= 40 else 0.6)
        for moment in moments_of(row, tail_tokens=256, block_tokens=32):
            assert set(moment.evidence) <= stated
            num_moments += 1
    assert num_moments >= 10


def test_a_row_is_a_function_of_its_random_state(babi_source: TextSource) -> None:
    one, same, other = (babi_row(babi_source, Random(seed), 512) for seed in (1, 1, 2))
    assert one.tokens_T.tolist() == same.tokens_T.tolist() != other.tokens_T.tolist()


def test_what_is_missing_is_said(source: TextSource, babi_source: TextSource, tmp_path: Path) -> None:
    assert not has_stories(tmp_path)
    with pytest.raises(InvalidValueError, match=r"babi/\*\.jsonl\.xz below --data"):
        babi_row(source, Random(0), 512)
    with pytest.raises(InvalidValueError, match="use longer rows"):
        babi_row(babi_source, Random(0), 16)
    with pytest.raises(InvalidValueError, match=r"babi_en_1k\.jsonl\.xz does not exist"):
        list(read_stories(tmp_path, "test"))


def test_published_layout() -> None:
    story = parse_story("qa2/en/0", "1 Mary got the ball.\n2 Mary went out.\n3 Where is the ball?\tout\t2 1\n")
    assert story.lines == {1: "Mary got the ball.", 2: "Mary went out."}
    assert story.questions == ((3, "Where is the ball?", "out", (1, 2)),)
    assert story.puzzle(0).statements == ("Mary got the ball.", "Mary went out.")


def test_a_book_without_a_world_draws_nothing(tokenizer: Tokenizer, data: Path) -> None:
    stories = [story for story in read_stories(data, "train") if story.name.startswith("qa17/")]
    book = StoryBook(tokenizer, encode_documents(tokenizer, stories))
    assert book.draw(Random(0), worlds=frozenset({"moves"})) is None
    drawn = book.draw(Random(0))
    assert drawn is not None
    assert drawn.world == "shapes"
