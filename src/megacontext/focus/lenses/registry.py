"""Lenses by name: ours in an explicit dict, other people's through the entry points ``megacontext.lenses``."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from megacontext.errors import InvalidValueError, UnknownNameError
from megacontext.focus.lenses.attention import AttentionLens
from megacontext.focus.lenses.auto import AutoLens
from megacontext.focus.lenses.lensnet import LensNetLens
from megacontext.focus.lenses.lexical import LexicalLens
from megacontext.focus.lenses.oracle import OracleLens
from megacontext.focus.lenses.recency import RecencyLens
from megacontext.ports.brought import brought
from megacontext.ports.focus import Lens
from megacontext.values import part

__all__ = ["ENTRY_POINT_GROUP", "as_lens", "known_lenses", "make_lens", "serving_lens"]

ENTRY_POINT_GROUP = "megacontext.lenses"

LENSES: dict[str, Callable[..., Lens]] = {
    "attention": AttentionLens,
    "auto": AutoLens,
    "lensnet": LensNetLens,
    "lexical": LexicalLens,
    "oracle": OracleLens,
    "recency": RecencyLens,
}


def known_lenses() -> list[str]:
    """Names that ``make_lens`` accepts, sorted."""
    return sorted({*LENSES, *entry_points(group=ENTRY_POINT_GROUP).names})


def serving_lens(name: str) -> str:
    """The name of a lens that can serve a session by its name alone.

    ``oracle`` cannot, because nobody tells it where the answer stands. InvalidValueError says so, UnknownNameError
    lists those that can.
    """
    serving = [known for known in known_lenses() if known != OracleLens.name]
    if name == OracleLens.name:
        raise InvalidValueError(
            "the lens 'oracle' has to be told where the answer stands, as only measurements can (`megacontext demo`, "
            f"`OracleLens(spans=[(start, stop)])` in Python); here serve {', '.join(serving)}"
        )
    if name not in serving:
        raise UnknownNameError.of("lens", name, serving)
    return name


def as_lens(lens: str | Lens) -> Lens:
    """A fresh lens of that name, or the one that is given. UnknownNameError, InvalidValueError list the known names."""
    return make_lens(serving_lens(lens)) if isinstance(lens, str) else part("lens", lens, Lens, known_lenses())  # type: ignore[type-abstract]


def make_lens(name: str, **options: object) -> Lens:
    """A fresh lens; ``options`` go to its constructor. UnknownNameError lists the known names."""
    if name in LENSES:
        return LENSES[name](**options)
    factory: Callable[..., Lens] | None = brought(ENTRY_POINT_GROUP, name, kind="lens")
    if factory is not None:
        return factory(**options)
    raise UnknownNameError.of("lens", name, known_lenses())
