"""An evaluation resumes at the next trial, gives the same figures again, and refuses what would mix two runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from megacontext.bases.registry import BaseHandle
from megacontext.bases.weight_files import file_digest
from megacontext.errors import (
    BaseModelError,
    BudgetError,
    DeviceMemoryError,
    InvalidValueError,
    MemoryExistsError,
    MemoryLockedError,
    UnknownNameError,
)
from megacontext.evaluation.methods.method import NOTHING, Lead, Method
from megacontext.evaluation.methods.plain import Recency
from megacontext.evaluation.results.writing import write_report
from megacontext.evaluation.runs.budget import needed_budget, smallest_window
from megacontext.evaluation.runs.histories import EvidenceFinder, Shelf
from megacontext.evaluation.runs.run import EvalConfig, _donors, evaluate
from megacontext.evaluation.runs.trials import run_item
from megacontext.evaluation.tasks import distance
from megacontext.evaluation.tasks.task import Case, Choice, Continuation, Document, Plan, Question, Setup
from megacontext.runtime.opened import OpenedMemory
from megacontext.testing.fake_base import byte_codec, tiny_base
from megacontext.testing.model_folder import write_model_folder
from megacontext.tree.geometry import TreeGeometry


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model_folder(tmp_path_factory.mktemp("base"), dtype="float32"))


def config(base: str, out: Path, **changes: Any) -> EvalConfig:
    settings: dict[str, Any] = {
        "base": base,
        "tasks": ("distance",),
        "out": out,
        "budget_entries": 400,
        "num_samples": 2,
        "lengths": (1024,),
        "methods": ("recency", "full", "mean", "mean-shuffled", "extractive-swapped", "gistnet", "oracle"),
    }
    return EvalConfig(**{**settings, **changes})


@pytest.fixture(scope="module")
def finished(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    write_report(evaluate(config(base, out)))
    return out


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]


def without_time(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in found]


def test_another_history_is_of_the_same_length_if_there_is_one() -> None:
    plans = [
        Plan(key=str(at), facets={"length": name}, make=NotImplemented) for at, name in enumerate(("1k", "1k", "2k"))
    ]
    assert [_donors(plans, at) for at in range(3)] == [[plans[1]], [plans[0]], plans[:2]]
    assert _donors(plans[:1], 0) == []
    assert _donors([plans[0], plans[0]], 0) == [], "a history is no other one because it is planned twice"


def test_gists_of_another_history_are_of_another_text(base: str, tmp_path: Path) -> None:
    novel = " ".join(f"Sentence number {at} of a long novel." for at in range(200))
    other = " ".join(f"Line {at} of a play." for at in range(200))
    texts = {"own": novel, "overlapping": f"A preface. {novel[3000:]}", "foreign": other}

    def case(name: str) -> Case:
        return Case(documents=(Document(name=name, text=texts[name]),), items=())

    own, overlapping, foreign = (Plan(key=name, facets={}, make=partial(case, name)) for name in texts)
    shelf = Shelf(tmp_path / "work", BaseHandle(base), block_tokens=32, gist_width=1)
    assert shelf.donor(own, [overlapping, foreign]) is foreign
    assert shelf.donor(own, [overlapping]) is overlapping, "better than none, where all of them share text"
    assert shelf.donor(own, []) is None


def test_what_was_found_of_another_text_is_not_gone_on_with(base: str, tmp_path: Path) -> None:
    settings = config(base, tmp_path / "run", methods=("recency",))
    evaluate(settings)
    trials = settings.out / "trials.jsonl"
    first, second = trials.read_bytes().splitlines(keepends=True)
    assert json.loads(first)["history"] != json.loads(second)["history"]
    changed = json.loads(first) | {"history": "0" * 16, "method": "sinks"}
    trials.write_bytes(json.dumps(changed).encode() + b"\n" + second)
    with pytest.raises(InvalidValueError, match="was run on another text for distance/1024/0: the data"):
        evaluate(replace(settings, resume=True))
    assert trials.read_bytes().endswith(second)


def test_what_found_no_memory_is_tried_again(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(base, tmp_path / "run", methods=("recency",), num_samples=1)
    with monkeypatch.context() as full:

        def refuse(*args: object, **named: object) -> None:
            raise DeviceMemoryError("the device is full")

        full.setattr(Recency, "answer", refuse)
        (record,) = evaluate(settings).folder.records
        assert (record.skipped, record.items) == ("the device is full", ())
    (record,) = evaluate(replace(settings, resume=True)).folder.records
    assert record.items
    assert record.skipped == ""


def test_an_item_without_room_leaves_the_others(base: str, tmp_path: Path) -> None:
    """64 tokens of text need more room than a question for a code."""
    settings = config(base, tmp_path / "run", tasks=("gap",), lengths=(1024,), methods=("recency", "mean"))
    records = evaluate(settings).folder.records
    some = [record for record in records if record.items and record.skipped]
    assert "recency" in {record.method for record in some}
    for record in records:
        measured = [bool(item.measures) for item in record.items]
        assert measured == ([True] * 4 + [False] if record in some else [True] * len(measured))
        assert bool(record.skipped) == (record in some or not record.items)


def test_a_history_that_cannot_be_made_leaves_the_others(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = distance.distance_case

    def sometimes(setup: Setup, key: str, length: int) -> Case:
        if key.endswith("/1"):
            raise InvalidValueError("no place for it")
        return make(setup, key, length)

    monkeypatch.setattr(distance, "distance_case", sometimes)
    settings = config(base, tmp_path / "run", methods=("recency",), num_samples=3)
    found = {record.key[-1]: record for record in evaluate(settings).folder.records}
    assert [bool(found[number].items) for number in "012"] == [True, False, True]
    assert found["1"].skipped == "no place for it"
    assert len(evaluate(replace(settings, resume=True)).folder.records) == 3


def test_each_length_is_looked_at_before_anything_runs(base: str, tmp_path: Path) -> None:
    settings = config(base, tmp_path / "run", tasks=("words",), lengths=(6000, 2048), budget_entries=800)
    with pytest.raises(InvalidValueError, match="a length of 2048 cannot hold"):
        evaluate(settings)
    assert not settings.out.exists()


def test_every_method_meets_every_history(finished: Path) -> None:
    found = lines(finished)
    assert len(found) == 2 * 7
    skipped = {line["method"] for line in found if line["skipped"]}
    assert skipped == {"gistnet"}
    for line in found:
        assert len(line["items"]) == (0 if line["skipped"] else 2)
    assert not (finished / "work").exists()


def test_results_say_where_they_come_from(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert results["settings"]["base_fingerprint"]
    assert {"date", "machine", "commit"} <= set(results)
    (score, nats) = results["tasks"]["distance"]["tables"]
    assert (score["metric"], nats["metric"]) == ("score", "answer nats")
    assert set(nats["methods"]["oracle"]["all"]) >= {"estimate", "against_recency", "against_full", "closure"}
    assert "no learned gists" in results["tasks"]["distance"]["skipped"]["gistnet"][0]


def test_an_interrupted_run_goes_on_at_the_next_trial(base: str, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_bytes((finished / "run.json").read_bytes())
    whole = (finished / "trials.jsonl").read_text().splitlines(keepends=True)
    (out / "trials.jsonl").write_text("".join(whole[:9]) + whole[9][:40])  # cut off amid a line
    evaluate(config(base, out, resume=True))
    assert lines(out)[:9] == lines(finished)[:9]  # with their seconds: they were not run again
    assert without_time(lines(out)) == without_time(lines(finished))


def test_memories_have_the_shape_that_is_asked_for(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    memory_of = Shelf.memory

    def seen(self: Shelf, plan: Plan, gister: str) -> OpenedMemory:
        memory = memory_of(self, plan, gister)
        made.append((memory.info.block_tokens, memory.info.gist_width))
        return memory

    monkeypatch.setattr(Shelf, "memory", seen)
    changes: dict[str, Any] = {"methods": ("recency", "mean"), "num_samples": 1, "block_tokens": 16, "gist_width": 2}
    run = evaluate(config(base, tmp_path / "out", **changes))
    assert set(made) == {(16, 2)}
    write_report(run)
    assert "blocks of 16 tokens, 2 vectors a gist" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(InvalidValueError, match="block_tokens 16, not 32"):
        evaluate(config(base, tmp_path / "out", resume=True, **{**changes, "block_tokens": 32}))


def test_a_folder_that_holds_a_run_is_not_touched(base: str, finished: Path) -> None:
    before = (finished / "trials.jsonl").read_bytes()
    with pytest.raises(MemoryExistsError, match="--resume"):
        evaluate(config(base, finished))
    with pytest.raises(InvalidValueError, match="run with seed 0, not 1"):
        evaluate(config(base, finished, seed=1, resume=True))
    assert (finished / "trials.jsonl").read_bytes() == before


def test_a_run_that_is_going_on_is_not_run_twice(base: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"methods": ("recency",), "num_samples": 1}
    tried = []

    def again(what: str, number: int, total: int) -> None:
        with pytest.raises(MemoryLockedError, match="another run; wait for it, or choose another folder"):
            evaluate(config(base, tmp_path / "out", resume=True, **changes))
        tried.append(what)

    evaluate(config(base, tmp_path / "out", **changes), on_step=again)
    assert tried
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run.json", "trials.jsonl"}
    evaluate(config(base, tmp_path / "out", resume=True, **changes))


def test_a_run_does_not_go_on_with_another_lens(tmp_path: Path) -> None:
    core = tmp_path / "core"
    shutil.copytree(BaseHandle("reference-core").folder, core)
    changes: dict[str, Any] = {"methods": ("recency",), "num_samples": 1}
    evaluate(config(str(core), tmp_path / "out", **changes))
    evaluate(config(str(core), tmp_path / "out", resume=True, **changes))
    weights = {name: -tensor for name, tensor in load_file(core / "lens_net.safetensors").items()}
    save_file(weights, core / "lens_net.safetensors")
    told = json.loads((core / "config.json").read_text())
    told["weights"]["lens_net"] = file_digest(core / "lens_net.safetensors")
    (core / "config.json").write_text(json.dumps(told))
    with pytest.raises(InvalidValueError, match=r"was run with weights \{'core':"):
        evaluate(config(str(core), tmp_path / "out", resume=True, **changes))


def test_a_model_that_cannot_be_loaded_is_no_finding(base: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    (weights,) = folder.glob("*.safetensors")
    told = load_file(weights)
    told["model.norm.weight"] = told["model.norm.weight"] * float("nan")
    save_file(told, weights, metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"NaN or infinity \(in model\.norm\.weight\)"):
        evaluate(config(str(folder), tmp_path / "out"))
    assert not (tmp_path / "out" / "trials.jsonl").exists()


def test_a_run_does_not_go_on_with_other_data(base: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "ruler").mkdir(parents=True)
    words = folder / "ruler/nounlist.txt"
    words.write_text("one\n")
    books = shutil.copy(files("megacontext.evaluation").joinpath("texts", "books.jsonl.xz"), tmp_path)  # type: ignore[type-var]
    (folder / "books").mkdir()
    Path(str(books)).rename(folder / "books/books_test.jsonl.xz")
    changes: dict[str, Any] = {"data": folder, "methods": ("recency",), "num_samples": 1}
    evaluate(config(base, tmp_path / "out", **changes))
    words.write_text("one\ntwo\n")
    with pytest.raises(InvalidValueError, match="was run with data"):
        evaluate(config(base, tmp_path / "out", resume=True, **changes))


def test_a_folder_that_holds_something_else_is_refused(base: str, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(MemoryExistsError, match="holds no run"):
        evaluate(config(base, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"tasks": ("needl",)}, UnknownNameError, "unknown task 'needl'; known: .*needle"),
        ({"methods": ("magic",)}, UnknownNameError, "unknown method 'magic'"),
        ({"data": Path("/nowhere")}, InvalidValueError, "/nowhere is no folder"),
        ({"budget_entries": 1 << 20}, BudgetError, "windows of at most"),
        ({"lengths": (10,)}, InvalidValueError, "length is 10; choose .* from 1024 to 16777216"),
        ({"lengths": (99_999 << 20,)}, InvalidValueError, "length is 104856551424; choose .* from 1024 to 16777216"),
        ({"num_samples": -1}, InvalidValueError, "samples is -1"),
        ({"tasks": ()}, InvalidValueError, "no task"),
        ({"block_tokens": 5}, InvalidValueError, "block_tokens is 5"),
        ({"block_tokens": 8, "gist_width": 8}, InvalidValueError, "gist_width is 8.*7"),
        ({"block_tokens": 128, "gist_width": 64, "budget_entries": 300}, BudgetError, "use a budget of at least"),
    ],
)
def test_wrong_usage_leaves_no_folder(
    changes: dict[str, Any], error: type[Exception], words: str, base: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        evaluate(config(base, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_budget_that_cannot_hold_a_question_is_an_error(base: str, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="budget of at least") as caught:
        evaluate(config(base, tmp_path / "out", budget_entries=24))
    assert not (tmp_path / "out").exists()
    smallest = int(str(caught.value).split()[-1])
    evaluate(config(base, tmp_path / "out", budget_entries=smallest + 32, num_samples=1))  # room for the recent tokens
    with pytest.raises(BudgetError, match="budget of at least"):
        evaluate(config(base, tmp_path / "other", budget_entries=smallest - 1))


def test_a_sixteenth_of_a_short_history_holds_it_and_what_comes() -> None:
    tree = TreeGeometry(32)
    for num_tokens in range(1850, 1950):
        shown = smallest_window(tree, gist_width=1, num_tokens=num_tokens, budget_entries=2048 // 16)
        assert shown + 40 <= 2048 // 16, "a question and its answer"
    for budget in (64, 200, 250, 300, 1000):
        needed = needed_budget(budget, tree, gist_width=1, num_tokens=9000, room=100)
        assert needed >= budget
        assert needed == needed_budget(needed, tree, gist_width=1, num_tokens=9000, room=100)


class Scripted(Method):
    """Says what it is told, and finds the letter ``a`` likely."""

    name = label = "scripted"

    def __init__(self, said: str = "") -> None:
        self.base = tiny_base()
        self.said = said

    def answer(self, question: str, *, evidence: Any, max_new_tokens: int = 12) -> str:
        return self.said

    def nll(self, token_ids: Any, *, after: Lead = NOTHING) -> Any:
        return np.where(token_ids == ord("a"), 0.5, 2.0)


def test_a_question_counts_what_is_stated() -> None:
    item = Question(text="?", expected=("12", "345"), gold=" a5", evidence=())
    assert run_item(Scripted("12 and 3456"), item, ()).measures == {"score": (1.0, 2), "answer nats": (4.5, 3)}


def test_a_choice_takes_the_likeliest() -> None:
    item = Choice(text="?", options=("bb", "cc", "aa"), right=0, evidence=(), is_ordered=True)
    result = run_item(Scripted(), item, ())
    assert (result.said, result.measures["right"], result.measures["error"]) == ("aa", (0.0, 1), (2.0, 1))


def test_the_likeliest_is_so_by_token_and_not_in_sum() -> None:
    item = Choice(text="?", options=("b", "aaaaaa"), right=1, evidence=())
    measures = {"right": (1.0, 1), "answer nats": (5.0, 7)}  # the other costs 4 nats, of two tokens
    assert run_item(Scripted(), item, ()).measures == measures


def test_a_continuation_is_measured_by_label() -> None:
    target = np.frombuffer(b"abca", np.uint8).astype(np.uint32)
    result = run_item(Scripted(), Continuation(target_ids=target, labels=("far", "", "new", "far")), ())
    assert result.measures == {"all": (5.0, 4), "far": (1.0, 2), "new": (2.0, 1)}
    with pytest.raises(InvalidValueError, match="3 labels for 4 tokens"):
        Continuation(target_ids=target, labels=("far", "", "new"))


def test_evidence_is_found_across_pieces_and_must_stand_once() -> None:
    text = "x" * 1020 + "The code is 48213." + "y" * 500
    finder = EvidenceFinder(byte_codec(), np.frombuffer(text.encode(), np.uint8).astype(np.uint32))
    assert finder.spans(("The code is 48213.", (3, 4))) == ((1020, 1038), (3, 4))
    for words, times in (("xx", "more than once"), ("zz", "not")):
        with pytest.raises(InvalidValueError, match=times):
            finder.span(words)
