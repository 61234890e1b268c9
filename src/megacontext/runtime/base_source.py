"""The base model of a memory: found when it is first needed, and refused if the memory was made with another."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from megacontext.errors import BaseMismatchError, BaseModelError, UnknownNameError
from megacontext.ports.base import Base, BaseInfo, BaseSource
from megacontext.ports.catalog import MemoryInfo
from megacontext.ports.text import EmbeddingRows, Encoded, SupportsTokenBytes, TextCodec

__all__ = ["CheckedBase", "LoadedBase"]


class LoadedBase:
    """A ``Base`` that is in memory already, as a source."""

    def __init__(self, base: Base) -> None:
        self.info = base.info
        self.codec = base.codec
        self._base = base

    @property
    def embeddings(self) -> EmbeddingRows:
        return self

    def rows(self, token_ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Float32 [..., D] embeddings of ids."""
        flat = self._base.embed(token_ids.reshape(-1).astype(np.uint32))
        rows: npt.NDArray[np.float32] = flat.float().cpu().numpy()
        return rows.reshape(*token_ids.shape, -1)

    def load(self) -> Base:
        return self._base


class CheckedBase:
    """The base of an existing memory. Listing and reading a memory never finds out whether its base is still there.

    find: locates the base; memory_info: what the memory was made with; folder: for messages; is_named: whether the user
    named this base, or the memory did.
    Everything may raise BaseMismatchError, which names both fingerprints, and whatever ``find`` raises.
    """

    def __init__(
        self, find: Callable[[], BaseSource], memory_info: MemoryInfo, folder: str, *, is_named: bool = False
    ) -> None:
        self._find = find
        self._is_named = is_named
        self._memory_info = memory_info
        self._folder = folder

    @functools.cached_property
    def found(self) -> BaseSource:
        made_with = self._memory_info
        try:
            source = self._find()
        except (BaseModelError, UnknownNameError) as error:
            if self._is_named:
                raise
            command = shlex.join(["megacontext", "regist", self._folder, "--base", "NEW"])
            raise BaseModelError(
                f"{self._folder} was made with the base {made_with.base_name}, which cannot be had now ({error}); "
                f"bring it back, or move the memory to another one: `{command}`"
            ) from error
        if source.info.fingerprint != made_with.base_fingerprint:
            way_out = "open it without naming a base" if self._is_named else "bring that base back"
            command = shlex.join(["megacontext", "regist", self._folder, "--base", source.info.name])
            raise BaseMismatchError(
                f"{self._folder} was made with the base {made_with.base_name} of fingerprint "
                f"{made_with.base_fingerprint[:12]}, not with {source.info.name} of {source.info.fingerprint[:12]}; "
                f"{way_out}, or move the memory to this one: `{command}`"
            )
        return source

    @property
    def info(self) -> BaseInfo:
        return self.found.info

    @property
    def codec(self) -> TextCodec:
        """Text to ids and back; reads the tokenizer when it is first used."""
        return _LazyCodec(self)

    @property
    def embeddings(self) -> EmbeddingRows:
        return self.found.embeddings

    def load(self) -> Base:
        return self.found.load()


class _LazyCodec:
    """A ``TextCodec`` that finds its base at the first use."""

    def __init__(self, base: CheckedBase) -> None:
        self._base = base

    @functools.cached_property
    def vocab_size(self) -> int:
        return self._base.found.codec.vocab_size

    @functools.cached_property
    def fingerprint(self) -> str:
        return self._base.found.codec.fingerprint

    def encode(self, text: str) -> Encoded:
        return self._base.found.codec.encode(text)

    def encode_batch(self, texts: list[str]) -> list[Encoded]:
        return self._base.found.codec.encode_batch(texts)

    def decode(self, token_ids: npt.NDArray[np.uint32]) -> str:
        return self._base.found.codec.decode(token_ids)

    def bytes_of(self, token_ids: npt.NDArray[np.uint32]) -> bytes | None:
        codec = self._base.found.codec
        return codec.bytes_of(token_ids) if isinstance(codec, SupportsTokenBytes) else None
