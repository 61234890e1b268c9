"""Methods obey one budget, and each shows the model what it says it shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from megacontext.errors import BudgetError
from megacontext.evaluation.methods.focused import FocusedMemory, OracleFocus
from megacontext.evaluation.methods.method import ANSWER_TOKENS, Lead, Method
from megacontext.evaluation.methods.plain import FullContext, Recency, Sinks
from megacontext.evaluation.methods.retrieval import Retrieval, best_spans
from megacontext.ports.base import question_ids
from megacontext.runtime.assembly import open as open_memory
from megacontext.runtime.opened import OpenedMemory
from megacontext.testing.fake_base import tiny_base

BASE = tiny_base()
BUDGET = 320
FACT = "The code for Alice Green is 48213. "
QUESTION = "What is the code for Alice Green?"


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedMemory]:
    filler = "".join(f"Line {number} says nothing of note. " for number in range(150))
    text = f"{filler[:2000]}{FACT}{filler[2000:]}"
    folder: Path = tmp_path_factory.mktemp("methods") / "m.mc"
    with open_memory(folder, base=BASE, create=True, gister="mean") as opened:
        opened.ingest(text=text, source="lines")
        yield opened


@pytest.mark.parametrize("kind", [Recency, Sinks, Retrieval, FocusedMemory, OracleFocus])
def test_answers_and_scores_come_within_budget(
    kind: type[Method], memory: OpenedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows: list[int] = []
    for name in ("forward", "patch"):
        run = getattr(BASE, name)

        def noting(*args: Any, run: Any = run, **named: Any) -> Any:
            done = run(*args, **named)
            windows.append(next(each for each in args if hasattr(each, "num_entries")).num_entries)
            return done

        monkeypatch.setattr(BASE, name, noting)
    method = kind(memory, BASE, budget_entries=BUDGET)
    answer = method.answer(QUESTION, evidence=[(2000, 2035)])
    assert isinstance(answer, str)
    if isinstance(method, FocusedMemory):
        asked = len(question_ids(BASE.info, BASE.codec, QUESTION))
        assert BUDGET // 2 < method.session.working_context.cost + asked + ANSWER_TOKENS <= BUDGET
    nats = method.nll(np.frombuffer(b"Line 150 says", np.uint8).astype(np.uint32))
    assert nats.shape == (13,)
    assert (nats > 0).all()
    assert BUDGET // 2 < max(windows) < BUDGET  # the last token of all is never run
    method.close()


@pytest.mark.parametrize("kind", [Recency, Sinks, Retrieval])
@pytest.mark.parametrize("room", [64, 200, 1000])
def test_plain_windows_fill_their_room_and_no_more(kind: type[Method], room: int, memory: OpenedMemory) -> None:
    method = kind(memory, BASE, budget_entries=BUDGET)
    assert isinstance(method, Recency | Sinks | Retrieval)
    assert len(method.context_ids(QUESTION, room)) == room


def test_recency_shows_the_end(memory: OpenedMemory) -> None:
    shown = Recency(memory, BASE, budget_entries=BUDGET).context_ids(QUESTION, 100)
    assert shown.tolist() == memory.tokens(memory.num_tokens - 100, memory.num_tokens).tolist()


def test_sinks_show_the_beginning_and_the_end(memory: OpenedMemory) -> None:
    shown = Sinks(memory, BASE, budget_entries=BUDGET).context_ids(QUESTION, 100).tolist()
    end = memory.num_tokens
    assert shown == [*memory.tokens(0, 4).tolist(), *memory.tokens(end - 96, end).tolist()]


@pytest.mark.parametrize("kind", [Recency, FocusedMemory])
def test_what_leads_is_shown_and_not_scored(kind: type[Method], memory: OpenedMemory) -> None:
    """Nats after a lead are those of the same tokens scored together with it, from the lead's end on."""
    whole = np.frombuffer(b"Line 150 says", np.uint8).astype(np.uint32)
    method = kind(memory, BASE, budget_entries=BUDGET)
    together = method.nll(whole, after=Lead(query="weather"))
    apart = method.nll(whole[5:], after=Lead(token_ids=whole[:5], query="weather"))
    np.testing.assert_allclose(apart, together[5:], rtol=1e-4)
    method.close()


def test_a_window_without_room_for_the_question_is_refused(memory: OpenedMemory) -> None:
    with pytest.raises(BudgetError, match="budget of at least"):
        Recency(memory, BASE, budget_entries=20).answer(QUESTION, evidence=[])


def test_retrieval_shows_the_passage_then_the_end(memory: OpenedMemory) -> None:
    method = Retrieval(memory, BASE, budget_entries=BUDGET)
    shown = BASE.codec.decode(method.context_ids(QUESTION, 600))
    assert FACT in shown
    assert shown.index(FACT) < shown.index("Line 149")


def test_a_small_window_holds_one_passage_if_it_can(memory: OpenedMemory) -> None:
    method = Retrieval(memory, BASE, budget_entries=BUDGET)
    for room, is_found in ((129, True), (128, False)):  # a passage of 128 tokens and a line end
        shown = method.context_ids(QUESTION, room)
        assert len(shown) == room
        assert ("Alice Green" in BASE.codec.decode(shown)) == is_found


def test_a_passage_of_wide_blocks_is_shown_too(tmp_path: Path) -> None:
    filler = "".join(f"Line {number} says nothing of note. " for number in range(150))
    with open_memory(tmp_path / "m.mc", base=BASE, create=True, gister="mean", block_tokens=128) as wide:
        wide.ingest(text=f"{filler[:2000]}{FACT}{filler[2000:]}", source="lines")
        shown = BASE.codec.decode(Retrieval(wide, BASE, budget_entries=1200).context_ids(QUESTION, 1000))
    assert FACT.strip() in shown, "a passage of four blocks of 128 is longer than the usual room for passages"


@pytest.mark.parametrize(("after", "said"), [((), "Two:\n"), ((7,), "Two:\n- A\n- B")])
def test_an_answer_ends_where_a_session_ends_it(after: tuple[int, ...], said: str, memory: OpenedMemory) -> None:
    """At the line's end, unless the base's own turns end by a control token."""
    method = Recency(memory, BASE, budget_entries=BUDGET)
    info = replace(BASE.info, question_after_ids=after, stop_token_ids=(0,))
    method.base = SimpleNamespace(info=info, codec=BASE.codec)  # type: ignore[assignment]
    script = iter([*b"Two:\n- A\n- B", 0])
    method._logits = lambda *_: torch.nn.functional.one_hot(torch.tensor([next(script)]), 256)  # type: ignore[assignment]
    assert method._continue(np.zeros(1, dtype=np.uint32), 40).rstrip("\0") == said


def test_retrieval_of_a_history_that_fits_shows_all_of_it_once(memory: OpenedMemory) -> None:
    method = Retrieval(memory, BASE, budget_entries=BUDGET)
    room = memory.num_tokens + 10
    assert method.context_ids(QUESTION, room).tolist() == memory.tokens(0, memory.num_tokens).tolist()


def test_the_oracle_opens_the_evidence_and_nobody_else_needs_it(memory: OpenedMemory) -> None:
    start = memory.text(0, memory.num_tokens).index(FACT)
    oracle = OracleFocus(memory, BASE, budget_entries=BUDGET)
    oracle.answer("Which?", evidence=[(start, start + len(FACT))])
    wc = oracle.session.working_context
    raw = [(a, b) for level, a, b in zip(wc.levels, wc.starts, wc.stops, strict=True) if level == 0]
    assert all(any(a <= token < b for a, b in raw) for token in range(start, start + len(FACT)))
    assert wc.cost + len(BASE.info.question_template) + ANSWER_TOKENS <= BUDGET + len("{question}")
    oracle.close()


def test_plain_windows_score_as_one_forward(memory: OpenedMemory) -> None:
    """Nats of a continuation are those of the same tokens in one window."""
    token_ids = np.frombuffer(b"xyz", np.uint8).astype(np.uint32)
    method = Recency(memory, BASE, budget_entries=BUDGET)
    window = np.concatenate([memory.tokens(memory.num_tokens - 317, memory.num_tokens), token_ids])
    expected = BASE.surprise(window[None])[0][-3:]
    np.testing.assert_allclose(method.nll(token_ids), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", [Recency, Retrieval])
def test_what_was_asked_before_changes_no_figure(kind: type[Method], memory: OpenedMemory) -> None:
    """Windows share what they have in common with the one before, and nothing else."""
    used, fresh = (kind(memory, BASE, budget_entries=BUDGET) for _ in range(2))
    used.answer(QUESTION, evidence=[])
    used.nll(np.frombuffer(b"abc", np.uint8).astype(np.uint32), after=Lead(query="other", reserve_entries=9))
    target = np.frombuffer(b"abd", np.uint8).astype(np.uint32)
    after = Lead(query="other", reserve_entries=9)
    np.testing.assert_allclose(used.nll(target, after=after), fresh.nll(target, after=after), rtol=1e-4)
    assert used.answer(QUESTION, evidence=[]) == fresh.answer(QUESTION, evidence=[])


def test_full_context_refuses_what_does_not_fit(memory: OpenedMemory) -> None:
    with pytest.raises(BudgetError, match="does not fit into the 4096 positions"):
        FullContext(memory, BASE, budget_entries=BUDGET).answer(QUESTION, evidence=[(0, 1)])


@pytest.mark.parametrize(
    ("spans", "room", "chosen"),
    [
        ([(96, 224), (0, 128), (900, 1028)], 260, [(0, 224)]),
        ([(900, 1028), (96, 224)], 258, [(96, 224), (900, 1028)]),
        ([(900, 1028), (96, 224)], 257, [(900, 1028)]),
        ([(0, 128)], 100, []),
    ],
)
def test_the_best_passages_that_fit(spans: list[tuple[int, int]], room: int, chosen: list[tuple[int, int]]) -> None:
    assert best_spans(spans, room=room, overhead=1) == chosen
