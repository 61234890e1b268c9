"""Everything that MegaContext raises to a user, as one tree.

    MegaContextError
    ├── UsageError                   what was asked for is wrong (exit code 2)
    │   ├── InvalidValueError        a value is outside its limits            (also a ValueError)
    │   │   ├── InvalidTokensError   token ids: range, sign, dtype, shape
    │   │   ├── InvalidScoresError   lens scores: NaN, infinite, wrong length
    │   │   └── BudgetError          a budget that cannot hold what it must
    │   │       └── PromptTooLongError   the model's server says that a prompt does not fit its window
    │   └── UnknownNameError         no lens, gister, allocator, base of that name
    ├── MemoryStateError             the memory is not what the call needs (exit code 1)
    │   ├── MemoryNotFoundError
    │   ├── MemoryExistsError
    │   ├── MemoryLockedError        another process writes, or the ingest that the call comes from
    │   ├── MemoryReadOnlyError
    │   ├── MemoryClosedError
    │   ├── MemoryMovedError         moved to another base since it was opened
    │   ├── SchemaVersionError       written by a newer MegaContext
    │   └── BaseMismatchError        made with another base model or gister
    ├── SourceError                  one source cannot be ingested; the memory is unchanged
    │   ├── EmptySourceError
    │   ├── NotTextError
    │   └── UnreadableSourceError    permissions, vanished, changed while being read
    ├── StorageError
    │   ├── StorageFullError
    │   ├── StorageTimeoutError      a store did not answer in time
    │   └── CorruptionError          names the object and the token range
    ├── BaseModelError               a base model cannot be loaded or lacks a trait
    │   ├── DeviceMemoryError        its weights, or a window of it, do not fit into the memory
    │   └── ServerError              the server of a model does not answer, or refuses
    ├── TrainingError                a training run cannot go on; its last checkpoint is as it was
    └── InvariantError               our own bug, with the evidence; nothing was written

A message says what was given, what was expected and what to do, in one line. Users never see a traceback of a
dependency: rooms translate at their border with ``raise ... from error``.
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar, Self

__all__ = [
    "BaseMismatchError",
    "BaseModelError",
    "BudgetError",
    "CorruptionError",
    "DeviceMemoryError",
    "EmptySourceError",
    "InvalidScoresError",
    "InvalidTokensError",
    "InvalidValueError",
    "InvariantError",
    "MegaContextError",
    "MemoryClosedError",
    "MemoryExistsError",
    "MemoryLockedError",
    "MemoryMovedError",
    "MemoryNotFoundError",
    "MemoryReadOnlyError",
    "MemoryStateError",
    "NotTextError",
    "PromptTooLongError",
    "SchemaVersionError",
    "ServerError",
    "SourceError",
    "StorageError",
    "StorageFullError",
    "StorageTimeoutError",
    "TrainingError",
    "UnknownNameError",
    "UnreadableSourceError",
    "UsageError",
]


class MegaContextError(Exception):
    """Root of everything raised to a user."""

    exit_code = 1


class UsageError(MegaContextError):
    """What was asked for is wrong; asking differently helps."""

    exit_code = 2


class InvalidValueError(UsageError, ValueError):
    """A value is outside its limits; the message names the value, the limit and the fix."""


class InvalidTokensError(InvalidValueError):
    """Token ids are not a flat sequence of integers within the vocabulary."""


class InvalidScoresError(InvalidValueError):
    """Lens scores are NaN, infinite, or not one per entry."""


class BudgetError(InvalidValueError):
    """A budget cannot hold what it must; the message names the smallest that works."""


class PromptTooLongError(BudgetError):
    """The server of a model says that a prompt with its answer does not fit into the model's window.

    window_tokens, prompt_tokens: what it said of both, 0 where it did not.
    """

    def __init__(self, message: str, *, window_tokens: int = 0, prompt_tokens: int = 0) -> None:
        super().__init__(message)
        self.window_tokens = window_tokens
        self.prompt_tokens = prompt_tokens


class UnknownNameError(UsageError, LookupError):
    """A registry has no part of that name; the message lists the known ones."""

    @classmethod
    def of(cls, kind: str, name: str, known: list[str]) -> UnknownNameError:
        return cls(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")


class MemoryStateError(MegaContextError):
    """The memory is not in the state that the call needs."""


class MemoryNotFoundError(MemoryStateError):
    """There is no memory at that place."""


class MemoryExistsError(MemoryStateError):
    """There is something at that place already."""


class MemoryLockedError(MemoryStateError):
    """Another living process writes to the memory, or an ingest of this one whose ``progress`` makes the call."""


class MemoryReadOnlyError(MemoryStateError):
    """The memory was opened for reading, or its folder cannot be written."""


class MemoryClosedError(MemoryStateError):
    """The memory or session was closed."""


class MemoryMovedError(MemoryStateError):
    """The memory was moved to another base since it was opened; open it again."""


class SchemaVersionError(MemoryStateError):
    """The memory was written by a newer MegaContext."""


class BaseMismatchError(MemoryStateError):
    """The memory was made with another base model or gister."""


class SourceError(MegaContextError):
    """One source cannot be ingested; the memory is unchanged."""


class EmptySourceError(SourceError):
    """A source has no text."""


class NotTextError(SourceError):
    """A source is not text in any format that is understood."""


class UnreadableSourceError(SourceError):
    """A source is missing, not readable, or changed while it was read."""


class StorageError(MegaContextError):
    """Reading or writing data at rest failed."""


class StorageFullError(StorageError):
    """No space is left, within a quota and a limit on file sizes too; nothing was changed.

    codes: what the operating system calls it.
    """

    codes: ClassVar[frozenset[int]] = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

    @classmethod
    def of(cls, code: int, doing: str) -> Self:
        """For one of ``codes``; ``doing`` completes "no space left while ..."."""
        why = "" if code == errno.ENOSPC else f" ({os.strerror(code)})"
        return cls(f"no space left while {doing}{why}; nothing was changed, free some space and try again")


class StorageTimeoutError(StorageError):
    """A store did not answer a read in time; what it holds is as it was."""


class CorruptionError(StorageError):
    """Data at rest fails its checksum; the message names the object and the token range."""


class BaseModelError(MegaContextError):
    """A base model cannot be loaded, or lacks a trait that memory needs."""


class DeviceMemoryError(BaseModelError):
    """A base's weights, or a window of it, do not fit into the memory; the message has the numbers and what fits."""


class ServerError(BaseModelError):
    """The server of a model behind an API does not answer, refuses, or answers what nobody can read."""


class TrainingError(MegaContextError):
    """A training run cannot go on; its last checkpoint is as it was."""


class InvariantError(MegaContextError):
    """An invariant of the tree or the working context is broken: a bug of ours, with the evidence."""
