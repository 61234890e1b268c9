"""What a document must not be to be trained on: one rule, one name, one reason.

The limits were set by looking at what stands on both sides of them in the installed packages of this project.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from megacontext.training.corpus import Document, unreadable_because

__all__ = ["RULES", "Rule", "broken_rule", "licence_header"]

MOST_TOP_CHARS = 1_500
LONG_LINE_CHARS = 200
MOST_IN_LONG_LINES = 0.3
MOST_DATA_LINES = 0.65
FEWEST_LETTERS = {"code": 0.4, "knowledge": 0.55, "books": 0.6}
MOST_REPEATED_LINES = 0.75
SHORTEST_COUNTED_LINE = 10
MOST_IN_LINKS = 0.5

_GENERATED = re.compile(
    r"auto-?\s?generated|do not (edit|modify)|@generated\b|(file|code|module) (is|was|has been) generated\b"
    r"|generated (by|from|with) |generated protocol buffer code",
    re.IGNORECASE,
)
_TOP = re.compile(r"""(?:\s*(?:#[^\n]*|[rR]?\"{3}.*?\"{3}|[rR]?'{3}.*?'{3}))*""", re.DOTALL)
_TEST_FILE = re.compile(r"(^|/)(test_[^/]*|conftest)\.py$|/_tests?/")
_STRING = re.compile(r"""[rbuRBU]?(['"])(?:\\.|(?!\1)[^\\\n])*\1""")
_DATA = re.compile(r"[\s\d.,:()\[\]{}+\-xXeEa-fA-F]*")
_LINK = re.compile(r"(?:https?://|\]\()\S+")
_TOP_COMMENTS = re.compile(r"(?:#!.*\n)?(?:#.*coding[:=].*\n)?((?:#.*\n)+)")
_LICENCE = re.compile(r"licen[cs]e|copyright|all rights reserved", re.IGNORECASE)


@dataclass(frozen=True)
class Rule:
    """domains: where it holds; says: what it removes, for the report; breaks: whether a document breaks it."""

    domains: frozenset[str]
    says: str
    breaks: Callable[[Document], bool]


def _lines(document: Document) -> list[str]:
    return [line for line in document.text.splitlines() if line.strip()]


def _is_generated(document: Document) -> bool:
    """Only comments and the docstring on top count: a generator speaks of generated code further down."""
    top = _TOP.match(document.text)
    return top is not None and _GENERATED.search(top[0][:MOST_TOP_CHARS]) is not None


def _has_long_lines(document: Document) -> bool:
    in_long = sum(len(line) for line in document.text.splitlines() if len(line) > LONG_LINE_CHARS)
    return in_long > MOST_IN_LONG_LINES * len(document.text)


def _is_table(document: Document) -> bool:
    """Strings, numbers and brackets, and no words of the language between them."""
    lines = _lines(document)
    num_data = sum(_DATA.fullmatch(_STRING.sub("", line)) is not None for line in lines)
    return num_data > MOST_DATA_LINES * len(lines)


def _has_few_letters(document: Document) -> bool:
    solid = "".join(document.text.split())
    return sum(map(str.isalpha, solid)) < FEWEST_LETTERS[document.domain] * len(solid)


def _is_repetitive(document: Document) -> bool:
    lines = [line.strip() for line in _lines(document)]
    counted = [line for line in lines if len(line) > SHORTEST_COUNTED_LINE]
    return len(set(counted)) < (1 - MOST_REPEATED_LINES) * len(counted)


def _is_links(document: Document) -> bool:
    in_links = sum(len(found[0]) for found in _LINK.finditer(document.text))
    return in_links > MOST_IN_LINKS * len(document.text)


_CODE, _PAGES = frozenset({"code"}), frozenset({"knowledge"})
_ALL = _CODE | _PAGES | {"books"}

RULES: dict[str, Rule] = {
    "tiny": Rule(_CODE, "files of fewer than 400 characters", lambda file: unreadable_because(file) == "tiny"),
    "huge": Rule(_CODE, "files of more than 200,000 characters", lambda file: unreadable_because(file) == "huge"),
    "foreign letters": Rule(
        _CODE, "more than 1 % of the characters outside ASCII", lambda file: unreadable_because(file) is not None
    ),
    "test file": Rule(
        _CODE,
        "test_*.py, conftest.py and what lies in folders _test and _tests",
        lambda file: bool(_TEST_FILE.search(file.name)),
    ),
    "generated": Rule(_CODE, "says so in its first comments", _is_generated),
    "long lines": Rule(_CODE, "more than 30 % of the text in lines of over 200 characters", _has_long_lines),
    "table": Rule(_CODE, "more than 65 % of the lines hold only strings, numbers and brackets", _is_table),
    "few letters": Rule(_ALL, "letters among the solid characters below 40 % (prose 55 to 60 %)", _has_few_letters),
    "repetitive": Rule(_CODE | _PAGES, "more than 75 % of the longer lines repeat earlier ones", _is_repetitive),
    "links": Rule(_PAGES, "more than half of the text in addresses of links", _is_links),
}
"""The rules in the order in which they are asked; the first three hold for uncleaned text, too."""


def broken_rule(document: Document) -> str | None:
    """The name of the first rule that the document breaks, if any."""
    for name, rule in RULES.items():
        if document.domain in rule.domains and rule.breaks(document):
            return name
    return None


def licence_header(text: str) -> str:
    """The comment block at the top of a file if it speaks of a licence or of copyright, else nothing."""
    block = _TOP_COMMENTS.match(text)
    return block[1] if block and _LICENCE.search(block[1]) else ""
