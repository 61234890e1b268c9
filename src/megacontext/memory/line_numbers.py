"""Which line a place in a source is on, without counting from its beginning each time."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict

from megacontext.memory.parts import Parts
from megacontext.memory.source_texts import SourceTexts, blob_pieces
from megacontext.ports.catalog import Source
from megacontext.units import MIB

__all__ = ["LineNumbers"]

STEP_BYTES = MIB // 4  # at least so much lies between two places whose lines are remembered
NEAR_BYTES = 16 * MIB  # what is read at once; a source that is shorter is there as a whole
_NUM_SOURCES = 16


class LineNumbers:
    """Remembers of the texts that were last asked for how many line ends are before some of their places.

    The first question far inside a long text reads it up to there; the next ones what lies between them and the
    nearest place that was passed. Texts are named by their digests, so that nothing remembered is ever wrong.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._known: OrderedDict[str, tuple[list[int], list[int]]] = OrderedDict()  # places, and line ends before each

    def before(self, source: Source, place: int, texts: SourceTexts) -> int:
        """Line ends before byte ``place`` of a source's text.

        Raises: CorruptionError.
        """
        places, counts = self._of(source.text_digest)
        nearest = bisect_right(places, place) - 1
        position, num_lines = places[nearest], counts[nearest]
        if place - position > NEAR_BYTES:
            return self._pass_through(source.text_digest, place)
        if position < place:
            num_lines += texts.part(source, position, place).count(b"\n")
            self._note(source.text_digest, place, num_lines)
        return num_lines

    def _pass_through(self, digest: str, place: int) -> int:
        """Count from the beginning, in pieces."""
        position = num_lines = 0
        for piece in blob_pieces(self._parts, digest):
            num_lines += piece.count(b"\n", 0, place - position)
            position = min(place, position + len(piece))
            self._note(digest, position, num_lines)
            if position == place:
                break
        return num_lines

    def _note(self, digest: str, place: int, num_lines: int) -> None:
        places, counts = self._of(digest)
        behind = bisect_right(places, place)
        if place - places[behind - 1] >= STEP_BYTES:
            places.insert(behind, place)
            counts.insert(behind, num_lines)

    def _of(self, digest: str) -> tuple[list[int], list[int]]:
        known = self._known.setdefault(digest, ([0], [0]))
        self._known.move_to_end(digest)
        if len(self._known) > _NUM_SOURCES:
            self._known.popitem(last=False)
        return known
