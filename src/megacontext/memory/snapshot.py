"""How far a history reaches, as one reader looks at it."""

from __future__ import annotations

from dataclasses import replace

from megacontext.memory.parts import Parts
from megacontext.ports.catalog import CatalogState

__all__ = ["Snapshot"]


class Snapshot:
    """The length of the history stands still until ``refresh``; what of it is sealed may be looked up anew."""

    def __init__(self, parts: Parts) -> None:
        self._catalog = parts.catalog
        self._tree = parts.tree
        self._state: CatalogState | None = None
        self._num_erased = 0

    @property
    def state(self) -> CatalogState:
        """Looked up at first use, so that a damaged catalog can be opened to be repaired."""
        if self._state is None:
            self._num_erased = self._catalog.num_erased()
            self._state = self._catalog.state()
        return self._state

    @state.setter
    def state(self, state: CatalogState) -> None:
        self._state = state

    @property
    def num_erased(self) -> int:
        """Sources that had been erased when it was looked up."""
        assert self.state is not None
        return self._num_erased

    @property
    def num_tokens(self) -> int:
        return self.state.num_tokens

    @property
    def num_levels(self) -> int:
        return self._tree.num_levels(self.num_tokens)

    def num_nodes(self, level: int) -> int:
        """Complete nodes; the power of a level that nobody could fill is never worked out."""
        return self._tree.num_nodes(level, self.num_tokens) if level < self.num_levels else 0

    def sealed_nodes(self, level: int) -> int:
        return self.state.sealed_nodes.get(level, 0)

    def refresh(self) -> bool:
        """See the last commit; whether something was erased since it was last looked at."""
        num_erased, state = self._catalog.num_erased(), self._catalog.state()
        has_erased = self._state is not None and num_erased != self._num_erased
        self._num_erased, self._state = num_erased, state
        return has_erased

    def see_seals(self) -> None:
        """The same length of history, with the gists that are sealed by now."""
        fresh = self._catalog.state()
        if fresh.sealed_nodes != self.state.sealed_nodes:
            self._state = replace(self.state, sealed_nodes=fresh.sealed_nodes)
