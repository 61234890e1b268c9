"""Text from files and models as a terminal may show it: nothing in it can move the cursor, colour, ring or reorder.

What people ingest is data. A terminal takes control characters for commands, so they are shown as what they are.
"""

from __future__ import annotations

import re

__all__ = ["visible_json", "visible_line", "visible_text"]

# C0 without tab and line feed, DEL, C1, line and paragraph separators, bidirectional overrides, lone surrogates
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# what JSON itself leaves as it is
_COMMANDS_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNDECODED_BYTES = range(0xDC80, 0xDD00)  # what Python makes of bytes in a file's name that are no UTF-8


def visible_text(text: str) -> str:
    r"""Text of any number of lines, control characters as escapes; line ends of any system end lines.

    >>> visible_text("two\r\nlines, \x1b[31mred")
    'two\nlines, \\x1b[31mred'
    """
    return _COMMANDS.sub(lambda found: _escape(found.group()), text.replace("\r\n", "\n"))


def visible_line(text: str) -> str:
    r"""A name on one line: whatever has no glyph of its own is an escape, and so are bytes that are no UTF-8.

    >>> visible_line("two\nlines \udce9")
    'two\\nlines \\xe9'
    """
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def visible_json(document: str) -> str:
    """A JSON document that says the same, with the rest of the control characters escaped too."""
    return _COMMANDS_IN_JSON.sub(lambda found: f"\\u{ord(found.group()):04x}", document)


def _escape(character: str) -> str:
    if ord(character) in _UNDECODED_BYTES:
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
