"""A memory as ``megacontext.open`` gives it: the living tree, and sessions that look at it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from megacontext.memory.memory import Memory
from megacontext.ports.base import BaseSource
from megacontext.ports.focus import Allocator, Lens
from megacontext.runtime.config import SessionConfig, SessionDefaults
from megacontext.runtime.patching import Patching
from megacontext.runtime.placement import PositionMode
from megacontext.runtime.session import Session
from megacontext.runtime.session_file import read_session
from megacontext.values import path as valid_path

__all__ = ["OpenedMemory"]


class OpenedMemory(Memory):
    """``Memory`` with the base model at hand. base: where sessions get it; parts: what ``Memory`` is made of."""

    def __init__(self, *, base: BaseSource, **parts: Any) -> None:
        super().__init__(codec=base.codec, **parts)
        self._base = base

    @property
    def base(self) -> BaseSource:
        """The base model: ``base.info`` reads small files, ``base.load()`` the model."""
        return self._base

    def session(
        self,
        *,
        budget_entries: int | None = None,
        lens: str | Lens = "auto",
        allocator: str | Allocator = "greedy",
        kv: str | Patching = "auto",
        positions: PositionMode = "auto",
        refocus_interval: int = 32,
        sink_tokens: int | None = None,
        recent_tokens: int = 64,
        gist_value: float = 0.2,
        seed: int | None = None,
    ) -> Session:
        """A working context over this memory; see ``SessionConfig`` for the arguments. ``budget_entries`` and
        ``sink_tokens`` are what suits the base where its config says so (``base.info.defaults``), else 1024 and 4.

        The base model is loaded when a session first runs it, and shared by all of them. Starting a session costs one
        window, however long the history is.

        Raises: BudgetError naming the smallest budget that works, UnknownNameError listing the known names.
        """
        suited = SessionDefaults.of(self._base, budget_entries=budget_entries, sink_tokens=sink_tokens)
        config = SessionConfig(
            budget_entries=suited.budget_entries,
            lens=lens,
            allocator=allocator,
            kv=kv,
            positions=positions,
            refocus_interval=refocus_interval,
            sink_tokens=suited.sink_tokens,
            recent_tokens=recent_tokens,
            gist_value=gist_value,
            seed=seed,
        )
        self._open_reader()
        return Session(self, self._base, config)

    def restore_session(
        self, path: str | PathLike[str], *, lens: str | Lens | None = None, allocator: str | Allocator | None = None
    ) -> Session:
        """Go on with a session that ``session.save`` wrote, over this memory or a copy of it.

        Its next tokens are those that it would have had, bit for bit on the same machine. The memory may have grown;
        where something was erased since, the model's state is made anew of the cut.

        lens, allocator: where they were given as objects, they have to be given again.
        Raises: InvalidValueError, CorruptionError, BaseMismatchError (another memory, base or precision),
            MemoryStateError (the memory is shorter than it was).
        """
        saved = read_session(Path(valid_path("path", path, example="talk.session")))
        config = saved.config(lens=lens, allocator=allocator)
        self._open_reader()
        return Session(self, self._base, config, saved=saved)
