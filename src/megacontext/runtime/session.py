"""A session: a working context and the model's state over one memory, for as long as somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from megacontext.errors import BudgetError, InvalidValueError, MemoryClosedError
from megacontext.focus.working_context import WorkingContext
from megacontext.memory.intake import valid_token_ids
from megacontext.memory.memory import Memory
from megacontext.ports.base import BaseSource, question_ids
from megacontext.runtime.completing import check_answer_fits, completion_steps
from megacontext.runtime.config import SessionConfig, window_budget
from megacontext.runtime.engine import NO_TOKENS, Engine, Query
from megacontext.runtime.events import ExplainedSpan, RefocusReport
from megacontext.runtime.generation import AnswerStream, answer_steps
from megacontext.runtime.prompts import Prompt
from megacontext.runtime.sampling import SamplingConfig
from megacontext.runtime.session_file import SavedSession, restore_into, save_session
from megacontext.values import path as valid_path
from megacontext.values import text, whole_number

__all__ = ["RECENT_QUERY_TOKENS", "Session"]

# tokens at the end of the history that stand for the query where none is given
RECENT_QUERY_TOKENS = 64


class Session:
    """One working context over one memory. Several may be open at once; they share the base model.

    What is asked and answered is scratch: it stands in the window after the history and is never ingested. The session
    follows the memory's growth, but not in the middle of an answer: that goes on with what its question found. Every
    method but ``explain`` and ``save`` overtakes it, so that its next step is an error. One object is for one thread.

    Args:
        memory: what to look at.
        base: the model, loaded when the session first runs it.
        config: see SessionConfig.
        saved: a session that was saved, to go on with.

    Raises: BudgetError, UnknownNameError; what ``OpenedMemory.restore_session`` says.
    """

    def __init__(
        self, memory: Memory, base: BaseSource, config: SessionConfig, *, saved: SavedSession | None = None
    ) -> None:
        self._engine = Engine(memory, base, config, num_tokens=0 if saved else None)
        if saved is not None:
            restore_into(self._engine, saved)
        self._is_closed = False

    # --- the working context ------------------------------------------------------------------------------------

    @property
    def working_context(self) -> WorkingContext:
        """The cut: ``levels``, ``starts``, ``stops`` as numpy arrays, ``cost``, ``num_entries``."""
        return self._engine.working_context

    @property
    def num_forwarded_entries(self) -> int:
        """Entries that ran through the model so far: what reuse of the cache saves shows here."""
        return self._engine.num_forwarded

    def refocus(self, query: str | None = None, *, reserve_entries: int = 0) -> RefocusReport:
        """Move detail to where a question needs it; without one, to where the end of the history does.

        reserve_entries: window positions to keep free for what will follow the history. ``generate`` and ``nll`` make
        room by themselves, but ``nll`` collapses for it what a refocus with the reserve would have chosen better.

        Raises: BudgetError naming the smallest budget that works, InvalidValueError, BaseModelError, DeviceMemoryError,
            CorruptionError, MemoryClosedError, MemoryMovedError. A store that does not answer is a warning in the
            report.
        """
        reserve_entries = whole_number("reserve_entries", reserve_entries, of="entries")
        question = None if query is None else text("query", query)
        engine = self._begin()
        target = _recent_query(engine.memory) if question is None else _question_query(engine, question)
        num_scratch = len(target.scratch) if engine.focus.needs_window else 0
        engine.reserve(max(reserve_entries, num_scratch), purpose="the question and what follows")
        engine.turn += 1
        return replace(engine.refocus(target), warnings=engine.take_warnings())

    def reveal(self, start: int, stop: int) -> None:
        """Show the tokens of a span ``[start, stop)``; a later refocus may collapse them again. Raises: BudgetError,
        InvalidValueError, MemoryClosedError."""
        engine = self._begin()
        with engine.whole_window():
            engine.working_context.reveal(start, stop)
        engine.turn += 1

    def pin(self, start: int, stop: int) -> None:
        """Show the tokens of a span ``[start, stop)`` until it is unpinned. Raises as ``reveal``."""
        engine = self._begin()
        with engine.whole_window():  # pins stay: they are measured against the session's budget
            engine.working_context.pin(start, stop)
        engine.turn += 1

    def unpin(self, start: int, stop: int) -> None:
        """Let a span collapse again, pinned or not. Raises: InvalidValueError, MemoryClosedError; BudgetError where the
        other pins are still more than fits (the span is let go all the same)."""
        self._check_open()
        try:
            engine = self._begin()
        except BudgetError:  # pins leave no room for what the memory grew by; so this has to come first
            self._engine.working_context.unpin(start, stop)
            engine = self._begin()
        else:
            engine.working_context.unpin(start, stop)
        engine.turn += 1

    def resize(self, budget_entries: int) -> None:
        """Change the window; a smaller one collapses what is worth least. Raises: BudgetError, after which it is as it
        was."""
        self._check_open()
        self._engine.resize(window_budget(budget_entries))
        self._engine.turn += 1

    # --- the model ----------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] | None = None,
    ) -> AnswerStream:
        """Answer a question: put it as the base was taught, refocus on it, and stream tokens and refocuses.

        stop: texts that end the answer; None: as the base answers, which is the end of the line unless the base ends
        its turns itself, by a control token or on its server. Room in the window is reserved at once, so that a
        BudgetError comes from this call, not from the stream.

        Raises: BudgetError, PromptTooLongError, InvalidValueError, MemoryClosedError; the stream also BaseModelError,
            DeviceMemoryError, ServerError, CorruptionError, and MemoryStateError where another call overtook it.
        """
        if not text("prompt", prompt).strip():
            raise InvalidValueError("the question is empty; ask something, or let complete continue the history")
        sampling = SamplingConfig(temperature=temperature, top_p=top_p, seed=seed)
        base = self._engine.base
        if stop is None:
            stop = () if base.info.question_after_ids else base.info.answer_stops
        asked = (base.info.question_template.format(question=prompt), question_ids(base.info, base.codec, prompt))
        return self._stream(*asked, prompt, max_new_tokens, stop, sampling, question=prompt)

    def complete(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> AnswerStream:
        """Continue ``prompt``, taken as it is, after the history; with an empty one the history itself. Raises as
        ``generate``."""
        sampling = SamplingConfig(temperature=temperature, top_p=top_p, seed=seed)
        token_ids = self._engine.base.codec.encode(text("prompt", prompt)).token_ids
        return self._stream(prompt, token_ids, prompt, max_new_tokens, stop, sampling)

    def nll(self, token_ids: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Nats, float64 [T], of each of the integers [T] as a continuation of the window as it is now.

        The first token is predicted from the window's last entry (log V if there is no history and no BOS). Where the
        continuation does not fit beside the cut, what is worth least collapses for it.

        Raises: InvalidTokensError, BudgetError, BaseModelError, DeviceMemoryError, CorruptionError, MemoryClosedError.
        """
        engine = self._begin()
        continuation = valid_token_ids(token_ids, engine.base.info.vocab_size)
        engine.make_room(len(continuation) - 1, purpose=f"a continuation of {len(continuation)} tokens")
        engine.turn += 1
        return engine.show(NO_TOKENS).nll(continuation)

    def explain(self, *, limit: int = 8) -> list[ExplainedSpan]:
        """The sources behind what the last answer's model saw in detail, most attended first, neighbours joined."""
        self._check_open()
        limit = whole_number("limit", limit, of="sources", usual=8)
        return self._engine.detail.explain(self._engine.memory, limit=limit)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the session to a file, from which ``memory.restore_session`` goes on bit for bit: cut, pins, what the
        lens said, and the model's keys and values. A file that is there is replaced. Answers in progress are not saved;
        they go on as if nothing had happened.

        The file holds what the window shows: keep it as private as the memory.

        Raises: InvalidValueError (no such folder), StorageFullError, StorageError, MemoryClosedError.
        """
        self._check_open()
        save_session(self._engine, Path(valid_path("path", path, example="talk.session")))

    def close(self) -> None:
        """Free the model's state; closing twice is fine."""
        self._engine.release()
        self._engine.turn += 1
        self._is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._is_closed:
            raise MemoryClosedError("the session was closed; open another with memory.session()")

    def _begin(self) -> Engine:
        """The engine, in step with the memory."""
        self._check_open()
        self._engine.follow_memory()
        self._engine.take_warnings()  # of a call that had nowhere to put them; the log has them
        return self._engine

    def _stream(
        self,
        prompt_text: str,
        token_ids: npt.NDArray[np.uint32],
        query: str,
        max_new_tokens: int,
        stop: Sequence[str],
        sampling: SamplingConfig,
        *,
        question: str = "",
    ) -> AnswerStream:
        engine = self._begin()
        prompt = Prompt(text=prompt_text, token_ids=token_ids, query=query, max_new_tokens=max_new_tokens, stop=stop)
        if sampling.seed is None:
            sampling = replace(sampling, seed=engine.config.seed)
        if engine.base.info.is_remote:
            check_answer_fits(engine, prompt)
            engine.turn += 1
            return AnswerStream(completion_steps(engine, prompt, sampling, question=question, turn=engine.turn))
        purpose = f"a prompt of {len(token_ids)} tokens with an answer of up to {prompt.max_new_tokens}"
        engine.reserve(prompt.reserve_entries, purpose=purpose)
        engine.turn += 1
        return AnswerStream(answer_steps(engine, prompt, sampling, turn=engine.turn))


def _question_query(engine: Engine, question: str) -> Query:
    base = engine.base
    scratch = question_ids(base.info, base.codec, question)
    return Query(text=question, token_ids=scratch, scratch=scratch, num_queries=len(scratch))


def _recent_query(memory: Memory) -> Query:
    """The end of the history asks for itself."""
    start = max(0, memory.num_tokens - RECENT_QUERY_TOKENS)
    token_ids = memory.tokens(start, memory.num_tokens)
    return Query(
        text=memory.text(start, memory.num_tokens), token_ids=token_ids, scratch=NO_TOKENS, num_queries=len(token_ids)
    )
