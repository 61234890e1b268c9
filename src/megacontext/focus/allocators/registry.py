"""Allocators by name: ours in an explicit dict, other people's through the entry points ``megacontext.allocators``."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from megacontext.errors import UnknownNameError
from megacontext.focus.allocators.greedy import GreedyAllocator
from megacontext.focus.allocators.optimal import OptimalAllocator
from megacontext.ports.brought import brought
from megacontext.ports.focus import Allocator
from megacontext.values import part

__all__ = ["ENTRY_POINT_GROUP", "as_allocator", "known_allocators", "make_allocator"]

ENTRY_POINT_GROUP = "megacontext.allocators"

ALLOCATORS: dict[str, Callable[..., Allocator]] = {
    "greedy": GreedyAllocator,
    "optimal": OptimalAllocator,
}


def known_allocators() -> list[str]:
    """Names that ``make_allocator`` accepts, sorted."""
    return sorted({*ALLOCATORS, *entry_points(group=ENTRY_POINT_GROUP).names})


def as_allocator(allocator: str | Allocator) -> Allocator:
    """A fresh allocator of that name, or the one that is given. UnknownNameError, InvalidValueError list the known."""
    if isinstance(allocator, str):
        return make_allocator(allocator)
    return part("allocator", allocator, Allocator, known_allocators())  # type: ignore[type-abstract]


def make_allocator(name: str, **options: object) -> Allocator:
    """A fresh allocator; ``options`` go to its constructor. UnknownNameError lists the known names."""
    if name in ALLOCATORS:
        return ALLOCATORS[name](**options)
    factory: Callable[..., Allocator] | None = brought(ENTRY_POINT_GROUP, name, kind="allocator")
    if factory is not None:
        return factory(**options)
    raise UnknownNameError.of("allocator", name, known_allocators())
