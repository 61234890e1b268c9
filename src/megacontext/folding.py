"""How words are made alike before they are compared, in the full-text index and in what reads its passages: case and
accents folded, and scripts that put no spaces between words told from those that do."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["UNSPACED", "fold", "without_accents"]

# Thai, Lao, Khmer, kana, Han: no spaces between words
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def fold(text: str) -> str:
    """Compatibility forms taken apart, lower case, no accents.

    >>> fold("Señor Ｎuñez")
    'senor nunez'
    """
    return _without_marks(unicodedata.normalize("NFKD", text).casefold())


def without_accents(text: str) -> str:
    """The same with its capitals.

    >>> without_accents("Señor")
    'Senor'
    """
    return _without_marks(unicodedata.normalize("NFKD", text))


def _without_marks(decomposed: str) -> str:
    return "".join(char for char in decomposed if not unicodedata.combining(char))
