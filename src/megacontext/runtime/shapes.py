"""What a memory is made of: the base, what makes its gists, and the shape of its tree, checked before anything is
written."""

from __future__ import annotations

import time
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from megacontext.bases.profiles import read_profile
from megacontext.bases.registry import check_placement
from megacontext.bases.remote.api_key import ApiKey
from megacontext.bases.schemes import base_handle
from megacontext.errors import BaseMismatchError, InvalidValueError
from megacontext.gisters.gistnet import LEARNED_GISTER
from megacontext.gisters.registry import gister_version, make_gister
from megacontext.ports.base import Base, BaseInfo, BaseSource
from megacontext.ports.catalog import MemoryInfo
from megacontext.runtime.api_keys import find_key, given_key
from megacontext.runtime.base_source import LoadedBase
from megacontext.tree.geometry import MAX_BLOCK_TOKENS, TreeGeometry
from megacontext.values import path as valid_path
from megacontext.values import shown, whole_number

__all__ = ["DEFAULT_BASE", "DEFAULT_BLOCK_TOKENS", "DEFAULT_GISTER", "AnyBase", "Placing", "Shape", "base_source"]

DEFAULT_BASE = "reference"
DEFAULT_GISTER = "extractive"
DEFAULT_BLOCK_TOKENS = 32
# Of memories whose gists are text; docs/api-models.md has the measurement.
TEXT_GISTER = "sentences"
TEXT_SHAPES = {"sentences": (16, 4), "summary": (64, 16)}  # block_tokens, gist_width

AnyBase = str | PathLike[str] | Base | BaseSource


@dataclass(frozen=True, kw_only=True)
class Placing:
    """Where and how a base that is given by its name is run. profile: file of what suits it."""

    dtype: str
    device: str
    profile: Path | None
    key: ApiKey | None

    @classmethod
    def of(
        cls, dtype: str, device: str, *, base_config: str | PathLike[str] | None = None, api_key: str | None = None
    ) -> Placing:
        """InvalidValueError for what no base could have."""
        check_placement(dtype, device)
        profile = None if base_config is None else Path(valid_path("base_config", base_config))
        if profile is not None:
            read_profile(profile)  # a wrong one is refused now, not when the base is first needed
        return cls(dtype=dtype, device=device, profile=profile, key=given_key(api_key))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is fixed when a memory is made, as far as somebody says; None: as it is, or the default."""

    gister: str | None
    block_tokens: int | None
    gist_width: int | None

    @classmethod
    def of(cls, gister: str | None, block_tokens: int | None, gist_width: int | None) -> Shape:
        """InvalidValueError, UnknownNameError for what no memory could have."""
        if gister is not None:
            gister_version(gister)
        if block_tokens is not None:
            block_tokens = TreeGeometry(block_tokens).block_tokens
        if gist_width is not None:
            gist_width = whole_number("gist_width", gist_width, least=1, most=MAX_BLOCK_TOKENS - 1, of="vectors")
        return cls(gister=gister, block_tokens=block_tokens, gist_width=gist_width)

    def info(self, source: BaseSource, *, like: MemoryInfo | None = None) -> MemoryInfo:
        """What a new memory for this base is made of. like: one whose shape it keeps where nobody says another; so does
        its gister, unless one of the two bases brings learned gists.

        Raises: InvalidValueError, UnknownNameError, BaseModelError.
        """
        name = self.gister or _usual_gister(source.info, like)
        block_tokens, width = _usual_shape(source.info, name, like)
        tree = TreeGeometry(self.block_tokens or block_tokens)
        if source.info.reads_text:
            width = min(width, tree.block_tokens // 2)
        width = self.gist_width or width
        # gists as wide as their blocks would save nothing
        width = whole_number("gist_width", width, least=1, most=tree.block_tokens - 1, of="vectors")
        made = make_gister(name, source, block_tokens=tree.block_tokens, gist_width=width)
        return MemoryInfo(
            block_tokens=tree.block_tokens,
            segment_tokens=tree.segment_tokens,
            base_name=source.info.name,
            base_revision=source.info.revision,
            base_fingerprint=source.info.fingerprint,
            vocab_size=source.info.vocab_size,
            dim=source.info.dim,
            gister_name=name,
            gister_version=made.version,
            gist_width=width,
            created_at=like.created_at if like is not None else time.time(),
        )

    def refuse_other(self, info: MemoryInfo, folder: str) -> None:
        """BaseMismatchError if somebody says another shape than a memory has."""
        for name, given, made in (
            ("gister", self.gister, info.gister_name),
            ("block_tokens", self.block_tokens, info.block_tokens),
            ("gist_width", self.gist_width, info.gist_width),
        ):
            if given is not None and given != made:
                raise BaseMismatchError(
                    f"{folder} was made with {name}={made}, not {given}; leave {name} out, or make it anew with "
                    f"`megacontext regist {folder} --{name.replace('_', '-')} {given}`"
                )


def _usual_gister(base: BaseInfo, like: MemoryInfo | None) -> str:
    """What makes the gists where nobody says; gists of text and of embeddings cannot take each other's place."""
    if base.reads_text:
        return like.gister_name if like is not None and like.gister_name in TEXT_SHAPES else TEXT_GISTER
    if base.gist_net:
        return base.defaults.gister or LEARNED_GISTER
    if like is not None and like.gister_name not in (LEARNED_GISTER, *TEXT_SHAPES):
        return like.gister_name
    return base.defaults.gister or DEFAULT_GISTER


def _usual_shape(base: BaseInfo, gister: str, like: MemoryInfo | None) -> tuple[int, int]:
    """block_tokens and gist_width where nobody says: those of ``like`` if its gists are of the same kind, else what
    suits the base."""
    if like is not None and (like.gister_name in TEXT_SHAPES) == base.reads_text:
        return like.block_tokens, like.gist_width
    if base.reads_text:
        return TEXT_SHAPES.get(gister, TEXT_SHAPES[TEXT_GISTER])
    return base.defaults.block_tokens or DEFAULT_BLOCK_TOKENS, base.defaults.gist_width or 1


def base_source(base: AnyBase, placing: Placing) -> BaseSource:
    """A base as somebody names or gives it. InvalidValueError."""
    if isinstance(base, str | PathLike):
        return base_handle(
            valid_path("base", base, example="models/qwen"),
            dtype=placing.dtype,
            device=placing.device,
            profile=placing.profile,
            find_key=lambda address: find_key(address, placing.key),
        )
    if isinstance(base, Base):
        return LoadedBase(base)
    if isinstance(base, type) or not isinstance(base, BaseSource):
        raise InvalidValueError(
            f"base is {shown(base)}; give {DEFAULT_BASE}, a model folder, a Hugging Face id, or a base in memory"
        )
    return base
