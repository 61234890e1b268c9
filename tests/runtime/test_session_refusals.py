"""What a session refuses: each in one error, after which it is as it was."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.errors import (
    BudgetError,
    InvalidTokensError,
    InvalidValueError,
    MegaContextError,
    MemoryClosedError,
    UnknownNameError,
)
from megacontext.focus.lenses.oracle import OracleLens
from megacontext.runtime.events import DoneEvent

QUESTION = "What is the code for Kolibri?"
RNG = np.random.default_rng(5)
CONTINUATION = RNG.integers(97, 123, 40).astype(np.uint32)


def answer_of(events):
    events = list(events)
    assert isinstance(events[-1], DoneEvent)
    return events


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"lens": "telescope"}, "attention, auto, lensnet, lexical"),
        ({"allocator": "thrifty"}, "greedy, optimal"),
        ({"kv": "magic"}, "auto, exact, patch"),
        ({"positions": "sideways"}, "auto, global, timeline, window"),
    ],
)
def test_unknown_names_list_the_known_ones(memory, options, names):
    with pytest.raises(UnknownNameError, match=names), memory.session(**options) as session:
        session.nll(CONTINUATION)


def test_an_oracle_serves_only_who_tells_it_where_to_look(memory):
    with pytest.raises(
        InvalidValueError, match=r"'oracle' has to be told where the answer stands.*here serve attention, au"
    ):
        memory.session(lens="oracle")
    with memory.session(lens=OracleLens()) as session, pytest.raises(InvalidValueError, match="was not told where"):
        session.refocus("What?")
    with memory.session(lens=OracleLens(spans=[(0, 8)])) as session:
        session.refocus("What?")


def test_a_budget_too_small_names_the_smallest_that_works(memory):
    with pytest.raises(BudgetError) as caught:
        memory.session(budget_entries=16)
    smallest = int(str(caught.value).split("at least ")[1].split(":")[0])
    memory.session(budget_entries=smallest).close()
    with pytest.raises(BudgetError):
        memory.session(budget_entries=smallest - 1)


def test_a_question_longer_than_the_window_names_the_smallest_budget(memory):
    with memory.session(budget_entries=256) as session:
        with pytest.raises(BudgetError, match="budget of at least") as caught:
            session.generate("word " * 400, max_new_tokens=8)
        smallest = int(str(caught.value).rsplit(" ", 1)[1])
        session.resize(smallest)
        answer_of(session.generate("word " * 400, max_new_tokens=8))


def test_a_budget_beyond_the_bases_positions_is_refused(memory, base):
    with pytest.raises(BudgetError, match=str(base.info.max_positions)):
        memory.session(budget_entries=base.info.max_positions + 1)


@pytest.mark.parametrize("token_ids", [[-1], [256], [1.5], [[1, 2]], []])
def test_nll_refuses_what_are_no_token_ids(memory, token_ids):
    with memory.session(budget_entries=256) as session, pytest.raises(InvalidTokensError):
        session.nll(token_ids)


@pytest.mark.parametrize(
    "options",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"temperature": float("nan")}, {"stop": "x"}],
)
def test_generate_refuses_impossible_options(memory, options):
    with memory.session(budget_entries=256) as session, pytest.raises(InvalidValueError):
        list(session.generate(QUESTION, **options))


@pytest.mark.parametrize("question", ["", " \n"])
def test_an_empty_question_is_refused(memory, question):
    with memory.session(budget_entries=256) as session, pytest.raises(InvalidValueError, match="empty"):
        session.generate(question)


def test_closed_sessions_and_memories_say_so(memory):
    session = memory.session(budget_entries=256)
    session.close()
    session.close()
    for use in (session.refocus, session.explain, lambda: session.nll([1])):
        with pytest.raises(MemoryClosedError):
            use()
    survivor = memory.session(budget_entries=256)
    memory.close()
    with pytest.raises(MegaContextError, match="closed"):
        survivor.nll([1])
    with pytest.raises(MemoryClosedError):
        memory.session()


def test_a_pin_is_measured_against_the_whole_budget(memory):
    """Not against what an earlier question left of it: the budget that the message asks for must work."""
    with memory.session(budget_entries=400) as session:
        session.refocus("What is the code?")
        with pytest.raises(BudgetError, match=r"budget_entries is 400; .* raise the budget to (\d+)") as error:
            session.pin(1000, 1600)
        needed = int(str(error.value).split("raise the budget to ")[1].split(",")[0])
    with memory.session(budget_entries=needed) as session:
        session.refocus()
        session.pin(1000, 1600)
        assert session.working_context.cost <= needed
        with memory.session(budget_entries=needed - 1) as smaller, pytest.raises(BudgetError):
            smaller.pin(1000, 1600)


def test_what_no_window_can_hold_is_not_asked_for(memory, base):
    limit = base.info.max_positions
    with memory.session(budget_entries=400) as session:
        for ask in (
            lambda: session.generate("Why?", max_new_tokens=10**9),
            lambda: session.refocus("Why?", reserve_entries=2 * limit),
            lambda: session.nll(np.zeros(limit + 5, dtype=np.uint32)),
        ):
            with pytest.raises(BudgetError, match=rf"have at most {limit}: shorten it"):
                ask()
        with pytest.raises(BudgetError, match=r"but the history needs at least \d+: use a budget of at least \d+"):
            session.resize(1)
