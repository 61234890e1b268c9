"""The stream of an answer that a server writes: focus, fit, ask, and hand on what comes.

The budget counts the server's tokens, which are not the memory's. So the cut is made to fit before anything is sent:
the prompt is counted (or estimated) as the server would, and the cut shrinks by what is too much. What a server refuses
as too long all the same shrinks once more, and then is an error.

A server that goes on with texts is asked for ``refocus_interval`` tokens at a time, and the focus moves in between. A
chat turn cannot be gone on with: it keeps the focus that its question found.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from megacontext.errors import BaseModelError, BudgetError, InvalidValueError, PromptTooLongError
from megacontext.ports.completion import CompletionRequest, SupportsCompletion
from megacontext.runtime.engine import NO_TOKENS, Engine, Query
from megacontext.runtime.events import DoneEvent, GenerationEvent, RefocusReport, TokenEvent, WarningEvent
from megacontext.runtime.focusing import FREE, Hysteresis
from megacontext.runtime.prompts import Prompt, check_turn, moved, query_of
from megacontext.runtime.sampling import SamplingConfig
from megacontext.runtime.stopping import StopTexts
from megacontext.runtime.window import WindowRows

if TYPE_CHECKING:
    import torch

__all__ = ["check_answer_fits", "completion_steps"]

MOST_FITS = 8  # times that a cut is made smaller before a prompt counts as one that does not fit
SMALLER = 0.03  # of the room, left free more at each time: a smaller cut has more gists, whose brackets cost, too
CLOSE_ENOUGH = 0.9  # of the room: a cut that fills less although there is more to show is made larger, once
RUNAWAY = 8  # an answer with so many times the tokens that were asked for is cut off: the server does not count


@dataclass
class _Written:
    """The answer so far, in the memory's tokens. ``text``: what may be shown of it."""

    engine: Engine
    stops: StopTexts
    text: str = ""
    whole: str = ""  # with what is held back because a stop may have begun there
    reason: str = ""
    token_ids: list[int] = field(default_factory=list)

    def push(self, text: str) -> Iterator[TokenEvent]:
        self.whole += text
        yield from self._show(self.stops.push(text))
        if self.stops.done:
            self.reason = "stop"

    def flush(self) -> Iterator[TokenEvent]:
        if not self.stops.done:
            yield from self._show(self.stops.flush())

    def _show(self, text: str) -> Iterator[TokenEvent]:
        """One event for a piece: its last token, and all of its text."""
        if text:
            self.text += text
            self.token_ids += self.engine.base.codec.encode(text).token_ids.tolist()
            yield TokenEvent(token_id=self.token_ids[-1] if self.token_ids else 0, text=text)


def check_answer_fits(engine: Engine, prompt: Prompt) -> None:
    """BudgetError where the answer alone would fill the budget; whether all fits is known when the server was asked."""
    if prompt.max_new_tokens >= engine.budget_entries:
        raise BudgetError(
            f"budget_entries is {engine.budget_entries}, but an answer of up to {prompt.max_new_tokens} tokens leaves "
            "no room for the question: shorten it, or use a larger budget"
        )


def completion_steps(
    engine: Engine, prompt: Prompt, sampling: SamplingConfig, *, question: str, turn: int
) -> Generator[GenerationEvent]:
    """What one answer does. question: as it was asked, '' where a text is gone on with."""
    check_turn(engine, turn)
    base = engine.base.load()
    if not isinstance(base, SupportsCompletion):
        raise BaseModelError(f"{base.info.name} says that it answers by itself, but lacks SupportsCompletion; add it")
    engine.detail.clear()
    written = _Written(engine, StopTexts(prompt.stop))
    interval = engine.config.refocus_interval if base.can_continue else 0
    query, hysteresis = query_of(prompt, "", [], num_queries=len(prompt.token_ids)), FREE
    num_left = prompt.max_new_tokens
    while num_left > 0 and written.reason != "stop":
        request = CompletionRequest(
            history_TD=base.embed(NO_TOKENS),
            prompt=prompt.text,
            question=question,
            answer=written.whole,
            scratch=np.concatenate([prompt.token_ids, engine.base.codec.encode(written.whole).token_ids]),
            max_new_tokens=min(num_left, interval) if interval else num_left,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
        )
        yield from _asked(engine, base, request, query, hysteresis, written, turn=turn, num_left=num_left)
        engine.detail.note(engine.working_context, engine.focus.utility, None)
        num_left -= request.max_new_tokens
        if num_left > 0:
            query = query_of(prompt, written.text, written.token_ids, num_queries=min(interval, len(written.token_ids)))
            hysteresis = engine.config.hysteresis
    yield from written.flush()
    if not written.text and written.reason == "stop":
        yield WarningEvent(text=f"{engine.base.info.name} ended its answer without a word")
    yield DoneEvent(text=written.text, token_ids=tuple(written.token_ids), reason=written.reason)


def _asked(
    engine: Engine,
    base: SupportsCompletion,
    request: CompletionRequest,
    query: Query,
    hysteresis: Hysteresis,
    written: _Written,
    *,
    turn: int,
    num_left: int,
) -> Generator[GenerationEvent]:
    """One request, whose history is empty yet: the focus, and what comes back. One that turns out to be too long is
    made smaller once."""
    for is_last in (False, True):
        report, fitting = _that_fits(engine, base, request, query, hysteresis, num_left=num_left)
        if not len(fitting.history_TD) and not len(fitting.scratch):
            raise InvalidValueError(
                "the memory and the prompt are both empty; give a prompt, or ingest something first"
            )
        yield from moved(engine, report, num_generated=len(written.token_ids))
        check_turn(engine, turn)
        try:
            yield from _streamed(engine, base, fitting, written, turn=turn)
            return
        except PromptTooLongError as error:
            if is_last:
                size = base.prompt_size(fitting)
                raise PromptTooLongError(
                    f"{error}; with a budget of {engine.budget_entries} the prompt was of about {size.num_tokens} "
                    f"tokens and its answer of up to {num_left}, the window of the server seems to hold "
                    f"{size.window_tokens or 'fewer'}: use a smaller budget, or tell its size with #window_tokens=N",
                    window_tokens=error.window_tokens,
                    prompt_tokens=error.prompt_tokens,
                ) from error


def _streamed(
    engine: Engine, base: SupportsCompletion, request: CompletionRequest, written: _Written, *, turn: int
) -> Generator[GenerationEvent]:
    written.reason = ""
    most_tokens = len(written.token_ids) + RUNAWAY * request.max_new_tokens + RUNAWAY
    pieces = (piece for piece in base.complete(request))  # a generator, whatever it is there: closing ends the request
    with closing(pieces):
        for piece in pieces:
            if piece.text:
                yield from written.push(piece.text)
                check_turn(engine, turn)
            written.reason = written.reason or piece.reason
            if not written.reason and len(written.token_ids) > most_tokens:
                written.reason = "length"
            if written.reason:
                return


def _that_fits(
    engine: Engine,
    base: SupportsCompletion,
    request: CompletionRequest,
    query: Query,
    hysteresis: Hysteresis,
    *,
    num_left: int,
) -> tuple[RefocusReport, CompletionRequest]:
    """Move the focus, and make the cut so small that the server's window, and the budget, hold it with the answer."""
    alone = base.prompt_size(request)  # the question without any history, but with what stands before that
    limit = min(engine.budget_entries, alone.window_tokens or engine.budget_entries)
    room = limit - num_left - alone.num_tokens
    num_lead = engine.working_context.config.lead_entries  # which ``alone`` has
    smallest = engine.working_context.smallest_budget - num_lead
    per_row = engine.tokens_per_row
    cut_budget = int(room / per_row)
    if room < 0:
        raise _too_small(engine, alone.num_tokens, num_left, limit, smallest)
    cut_budget = max(cut_budget, smallest)
    has_grown = False
    for attempt in range(MOST_FITS):
        engine.focus.allot(cut_budget + num_lead, reserved_entries=0, purpose="the history")
        report = engine.refocus(query, hysteresis=hysteresis)
        request = replace(request, history_TD=_history_rows(engine))
        cost = engine.working_context.cost
        num_history = base.prompt_size(request).num_tokens - alone.num_tokens
        if cost and num_history > 0:
            per_row = engine.tokens_per_row = max(num_history / cost, 0.05)
        if num_history <= room:
            is_all = cost == engine.working_context.num_tokens
            if has_grown or is_all or num_history >= CLOSE_ENOUGH * room or cost < CLOSE_ENOUGH * cut_budget:
                return report, request
            has_grown, cut_budget = True, int(CLOSE_ENOUGH * room / per_row)
            continue
        if cost <= smallest:
            break
        has_grown = True
        cut_budget = max(smallest, min(cost - 1, int((1 - SMALLER * attempt) * room / per_row)))
    raise _too_small(engine, alone.num_tokens, num_left, limit, smallest)


def _history_rows(engine: Engine) -> torch.Tensor:
    """Rows [T, D] of the current cut; with less detail, and a warning, where a store does not answer."""

    def read() -> torch.Tensor:
        wc = engine.working_context
        rows = WindowRows.of_cut(wc.cut, wc.gist_width)
        reader = engine.window_reader(engine.base.load())
        return reader.read(rows, np.arange(len(rows)), reader.place(rows, num_tokens=wc.num_tokens)).vectors

    return engine.with_what_can_be_read(read)


def _too_small(engine: Engine, num_prompt: int, num_new: int, limit: int, smallest: int) -> BudgetError:
    is_server = limit < engine.budget_entries
    what = f"the server's window of {limit} tokens" if is_server else f"a budget of {limit} tokens"
    needed = num_prompt + num_new + int(smallest * max(engine.tokens_per_row, 0.05)) + 1
    return BudgetError(
        f"{what} cannot hold the question ({num_prompt}), an answer of up to {num_new} and the coarsest view of the "
        f"history ({smallest} of the memory's tokens): use at least {needed}, or a shorter answer"
    )
