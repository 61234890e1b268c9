"""The stream of one answer: draw, show, run, and now and then move the focus.

What an answer does is written once, as steps that yield what people see and, in between, the token that the window has
to run next. A stream runs it at once; streams that step together run theirs in one batch.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from megacontext.bases.detokenize import Detokenizer
from megacontext.errors import InvalidValueError, MegaContextError, MemoryClosedError
from megacontext.runtime.decode import ModelWindow, append_together
from megacontext.runtime.engine import Engine, Query
from megacontext.runtime.events import DoneEvent, GenerationEvent, RefocusReport, TokenEvent
from megacontext.runtime.focusing import FREE, Hysteresis
from megacontext.runtime.prompts import Prompt, check_turn, moved, query_of
from megacontext.runtime.sampling import Sampler, SamplingConfig
from megacontext.runtime.stopping import StopTexts
from megacontext.values import shown

__all__ = ["AnswerStream", "NextToken", "answer_steps", "together"]


@dataclass(frozen=True)
class NextToken:
    """What a window has to run before its answer can go on."""

    engine: Engine
    turn: int
    window: ModelWindow
    token_id: int

    @property
    def is_current(self) -> bool:
        """Whether the window is still that of its answer, and its memory open."""
        try:
            return self.engine.turn == self.turn and not self.engine.is_outdated
        except MemoryClosedError:
            return False


class AnswerStream(Iterator[GenerationEvent]):
    """The events of one answer, made as they are asked for. ``together`` takes several."""

    def __init__(self, steps: Generator[GenerationEvent | NextToken]) -> None:
        self._steps = steps
        self._waiting: NextToken | None = None

    def __next__(self) -> GenerationEvent:
        found = self.step()
        while isinstance(found, NextToken):
            if found.is_current:
                found.window.append(np.array([found.token_id], dtype=np.uint32))
            self.go_on()
            found = self.step()
        return found

    def step(self) -> GenerationEvent | NextToken:
        """The next event, or the token that has to run before there is one, again and again until ``go_on`` is called;
        StopIteration at the end."""
        if self._waiting is not None:
            return self._waiting
        found = next(self._steps)
        self._waiting = found if isinstance(found, NextToken) else None
        return found

    def go_on(self) -> None:
        """The token that had to run has run, or never will: the next step says why."""
        self._waiting = None

    def close(self) -> None:
        """End the answer here."""
        self._steps.close()


def together(streams: Sequence[AnswerStream]) -> Iterator[tuple[int, GenerationEvent | MegaContextError]]:
    """Answers of several sessions, a token of each in every round, all tokens for one model in one batch.

    Sessions may look at different memories and differ in everything. An answer that fails ends with its error, the
    others go on.

    Args:
        streams: a list of what ``session.generate`` or ``session.complete`` gave, each of another session.

    Yields:
        Which stream, by its place, and its event, or the MegaContextError that ended it.

    Raises: InvalidValueError for anything else; what is no MegaContextError (of a lens that was given, say) as it is.
    """
    waiting: dict[int, NextToken] = {}
    if not isinstance(streams, list | tuple):
        raise InvalidValueError(f"streams is {shown(streams)}; give a list of what session.generate returned")
    for stream in streams:
        if not isinstance(stream, AnswerStream):
            raise InvalidValueError(f"streams holds {shown(stream)}; give what session.generate returned")
    going = list(range(len(streams)))
    if len({id(stream) for stream in streams}) < len(streams):
        raise InvalidValueError("streams holds the same answer twice; give one of each session")
    while going:
        waiting.clear()
        for number in tuple(going):
            try:
                while not isinstance(found := streams[number].step(), NextToken):
                    yield number, found
                waiting[number] = found
            except StopIteration:
                going.remove(number)
            except MegaContextError as error:
                going.remove(number)
                yield number, error
        running = [number for number, each in waiting.items() if each.is_current]  # else session or memory changed
        token_ids = np.array([waiting[number].token_id for number in running], np.uint32)
        failed = append_together([waiting[number].window for number in running], token_ids)
        for number in waiting:
            streams[number].go_on()
        for place, failure in failed.items():
            number = running[place]
            going.remove(number)
            streams[number].close()
            yield number, failure


def answer_steps(
    engine: Engine, prompt: Prompt, sampling: SamplingConfig, *, turn: int
) -> Generator[GenerationEvent | NextToken]:
    """What one answer does; room for it was reserved before. Nothing here depends on the length of the history."""
    check_turn(engine, turn)
    text_out = _TextOut(engine, prompt)
    sampler = Sampler(sampling)
    stop_token_ids = frozenset(engine.base.info.stop_token_ids)
    token_ids: list[int] = []
    reason = "length"

    engine.detail.clear()
    query = query_of(prompt, "", token_ids, num_queries=len(prompt.token_ids))
    report, window = _refocus(engine, query)
    if window.next_logits is None or not (engine.working_context.cost or len(prompt.token_ids)):
        raise InvalidValueError("the memory and the prompt are both empty; give a prompt, or ingest something first")
    yield from moved(engine, report, num_generated=0)

    while len(token_ids) < prompt.max_new_tokens:
        check_turn(engine, turn)
        token_id = sampler.draw(window.next_logits)
        if token_id in stop_token_ids:
            reason = "stop"
            break
        token_ids.append(token_id)
        yield TokenEvent(token_id=token_id, text=text_out.push(token_id))
        check_turn(engine, turn)
        if text_out.done:
            reason = "stop"
            break
        if len(token_ids) == prompt.max_new_tokens:
            break
        if engine.config.refocus_interval and len(token_ids) % engine.config.refocus_interval == 0:
            engine.note_detail(window)
            if engine.focus.needs_window:  # the lens looks at a window with this token: it runs with those of others
                yield NextToken(engine, turn, window, token_id)
                check_turn(engine, turn)
            num_queries = min(engine.config.refocus_interval, len(token_ids))
            query = query_of(prompt, text_out.text, token_ids, num_queries=num_queries)
            report, window = _refocus(engine, query, hysteresis=engine.config.hysteresis, by_words_first=False)
            yield from moved(engine, report, num_generated=len(token_ids))
        else:
            yield NextToken(engine, turn, window, token_id)
    engine.note_detail(window)
    if rest := text_out.flush():
        yield TokenEvent(token_id=token_ids[-1], text=rest)
    yield DoneEvent(text=text_out.text, token_ids=tuple(token_ids), reason=reason)


def _refocus(
    engine: Engine, query: Query, *, hysteresis: Hysteresis = FREE, by_words_first: bool = True
) -> tuple[RefocusReport, ModelWindow]:
    """Move the cut, and show it with what the query says stands after it."""
    refreshes_before = engine.num_refreshes
    report = engine.refocus(query, hysteresis=hysteresis, by_words_first=by_words_first)
    window = engine.show(query.scratch)
    return replace(report, num_refreshes=engine.num_refreshes - refreshes_before), window


class _TextOut:
    """Tokens to shown text."""

    def __init__(self, engine: Engine, prompt: Prompt) -> None:
        self._detokenizer = Detokenizer(engine.base.codec)
        self._stops = StopTexts(prompt.stop)
        self._shown: list[str] = []

    @property
    def done(self) -> bool:
        return self._stops.done

    @property
    def text(self) -> str:
        return "".join(self._shown)

    def push(self, token_id: int) -> str:
        return self._show(self._stops.push(self._detokenizer.push(token_id)))

    def flush(self) -> str:
        if self._stops.done:
            return ""
        return self._show(self._stops.push(self._detokenizer.flush()) + self._stops.flush())

    def _show(self, text: str) -> str:
        if text:
            self._shown.append(text)
        return text
