"""Ends an answer at a text, such as the end of its line, without ever showing the beginning of that text."""

from __future__ import annotations

from collections.abc import Sequence

from megacontext.values import texts

__all__ = ["StopTexts"]


class StopTexts:
    """Watches a stream of text. A stop counts only after something that is not white space: models like to begin on a
    new line. ``done`` turns True when one was met; what came after it is dropped."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = texts("stop", stops)
        self._held = ""
        self._has_begun = False
        self.done = False

    def push(self, text: str) -> str:
        """What may be shown now."""
        text = self._held + text
        self._held = ""
        begin = 0
        if not self._has_begun:
            begin = len(text) - len(text.lstrip())
            self._has_begun = begin < len(text)
        found = [at for at in (text.find(stop, begin) for stop in self._stops) if at >= 0]
        if self._has_begun and found:
            self.done = True
            return text[: min(found)]
        keep = self._num_held(text, begin)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back because a stop might have begun there."""
        text, self._held = self._held, ""
        return text

    def _num_held(self, text: str, begin: int) -> int:
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text) - begin), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
