"""How long an ingest will still take, from how it went lately.

Lately, because what is there already is passed over a thousand times as fast as what is new is read.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megacontext.memory.reports import IngestProgress

__all__ = ["Pace", "clock"]

_WINDOW_SECONDS = 60.0
_LEAST_SECONDS = 1.0  # of what has been seen, before anything is said


@dataclass(frozen=True)
class _Seen:
    seconds: float
    progress: IngestProgress


class Pace:
    """Speed and time left, out of what ``see`` was told in the last minute."""

    def __init__(self) -> None:
        self._seen: deque[_Seen] = deque()

    def see(self, progress: IngestProgress, seconds: float) -> None:
        """How far it is, ``seconds`` after the start."""
        self._seen.append(_Seen(seconds, progress))
        while seconds - self._seen[0].seconds > _WINDOW_SECONDS and len(self._seen) > 2:
            self._seen.popleft()

    @property
    def seconds_left(self) -> float | None:
        """None as long as nobody can say: folders are still being looked through, or nothing has happened yet.

        Reading and gists go on side by side, so whichever ends later counts.
        """
        first, last = self._seen[0], self._seen[-1]
        past, now = first.progress, last.progress
        seconds = last.seconds - first.seconds
        if not now.is_found or seconds < _LEAST_SECONDS:
            return None
        bytes_left = now.found_bytes - now.num_bytes
        bytes_read, tokens_read = now.num_bytes - past.num_bytes, now.num_tokens - past.num_tokens
        gists_left = now.num_tokens - now.num_gist_tokens
        gists_made = now.num_gist_tokens - past.num_gist_tokens
        if bytes_left and bytes_read:
            gists_left += tokens_read * bytes_left // bytes_read
        if (bytes_left and not bytes_read) or (gists_left and not gists_made and not bytes_left):
            return None
        reading = seconds * bytes_left / bytes_read if bytes_left else 0.0
        making = seconds * gists_left / gists_made if gists_made else 0.0
        return max(reading, making)


def clock(seconds: float) -> str:
    """Time as people read it off a clock.

    >>> clock(75), clock(7384)
    ('1:15', '2:03:04')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
