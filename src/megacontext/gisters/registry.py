"""Gisters by name: ours in an explicit table, other people's through the entry points ``megacontext.gisters``."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Protocol

from megacontext.errors import InvalidValueError, UnknownNameError
from megacontext.gisters.extractive import ExtractiveGister
from megacontext.gisters.gistnet import GistNetGister
from megacontext.gisters.mean import MeanGister
from megacontext.gisters.sentences import SentencesGister
from megacontext.gisters.source import check_width
from megacontext.gisters.summary import SummaryGister
from megacontext.ports.base import BaseSource
from megacontext.ports.brought import brought
from megacontext.ports.gister import Gister
from megacontext.values import text

__all__ = ["GISTERS", "GisterFactory", "gister_version", "known_gisters", "make_gister"]


class GisterFactory(Protocol):
    """A gister class: its version is known without an instance, and making one loads no model."""

    version: str

    def __call__(self, source: BaseSource, *, block_tokens: int, gist_width: int) -> Gister: ...


GISTERS: dict[str, GisterFactory] = {
    "extractive": ExtractiveGister,
    "gistnet": GistNetGister,
    "mean": MeanGister,
    "sentences": SentencesGister,
    "summary": SummaryGister,
}
# Those whose gists are vectors in a model's space, which a base that reads text has none of.
OF_VECTORS = ("extractive", "gistnet", "mean")
ENTRY_POINTS = "megacontext.gisters"


def known_gisters() -> list[str]:
    """Names that ``make_gister`` knows."""
    return sorted({*GISTERS, *entry_points(group=ENTRY_POINTS).names})


def gister_version(name: str) -> str:
    """The version of this gister; where a base's own net makes gists, these carry its digest behind that.
    UnknownNameError lists the known names."""
    return _factory(name).version


def make_gister(name: str, source: BaseSource, *, block_tokens: int = 32, gist_width: int = 1) -> Gister:
    """A gister for one base; the base model is loaded when it is first needed, if ever.

    block_tokens: K, children of a node; gist_width: r, vectors of a gist, 1 to K.
    Raises UnknownNameError, InvalidValueError.
    """
    factory = _factory(name)
    if name in OF_VECTORS and source.info.reads_text:
        raise InvalidValueError(
            f"gister {name!r} makes vectors, and {source.info.name} reads text; use gister 'sentences', or 'summary' "
            "to let the model summarise"
        )
    check_width(gist_width, block_tokens)
    return factory(source, block_tokens=block_tokens, gist_width=gist_width)


def _factory(name: str) -> GisterFactory:
    name = text("gister", name)
    if name in GISTERS:
        return GISTERS[name]
    factory: GisterFactory | None = brought(ENTRY_POINTS, name, kind="gister")
    if factory is not None:
        return factory
    raise UnknownNameError.of("gister", name, known_gisters())
