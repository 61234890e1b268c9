"""HTML: the text that a reader of the page sees, with its title; no scripts, no styles, no markup."""

from __future__ import annotations

import re
import warnings

from bs4 import BeautifulSoup
from bs4.dammit import EncodingDetector
from bs4.element import NavigableString, PageElement, PreformattedString, Tag

from megacontext.documents.decoding import decode_text, without_surrogates
from megacontext.documents.document import Parsed, one_section
from megacontext.errors import NotTextError

__all__ = ["parse"]

_SILENT = frozenset({"head", "noscript", "script", "style", "svg", "template"})
_BLOCK_NAMES = """
    address article aside blockquote body br dd div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6
    header hr li main nav ol option p pre section summary table tbody tfoot thead tr ul
"""
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_SPACE = re.compile(r"[ \t\r\n\f]+")


def parse(raw: bytes, name: str) -> Parsed:
    """Raises: NotTextError if the bytes are in no encoding that the page or a byte-order mark names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the parser's hints are for its programmer, not for the reader of a page
        soup = BeautifulSoup(_decode(raw, name), "lxml")
    title = _SPACE.sub(" ", soup.title.get_text()).strip() if soup.title else ""
    author = soup.find("meta", attrs={"name": "author"})
    text = without_surrogates(_visible_text(soup))
    parsed = one_section(text, title=title)
    author_name = str(author.get("content", "")) if isinstance(author, Tag) else ""
    return Parsed(text=parsed.text, sections=parsed.sections, author=author_name)


def _decode(raw: bytes, name: str) -> str:
    """A page may name its encoding itself; otherwise it is text like any other."""
    try:
        declared = EncodingDetector.find_declared_encoding(raw, is_html=True)
        if declared and not raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
            return raw.decode(declared)
    except (LookupError, UnicodeError):
        pass  # a wrong claim: the page must then be plain UTF-8
    try:
        return decode_text(raw, name)
    except NotTextError as error:
        raise NotTextError(f"{error}, or name its encoding in a <meta charset>") from error


def _visible_text(root: Tag) -> str:
    """Text in reading order: one line per block, cells apart by a tab, white space as a browser folds it.

    Walks with a stack of its own, since pages nest deeper than Python likes to recurse.
    """
    lines: list[str] = [""]
    stack: list[tuple[PageElement, bool, bool]] = [(root, False, False)]  # element, done, inside <pre>
    while stack:
        element, done, preformatted = stack.pop()
        if isinstance(element, Tag):
            if element.name in _SILENT:
                continue
            if element.name in _BLOCKS and lines[-1]:
                lines.append("")
            if done:
                lines[-1] += "\t" if element.name in {"td", "th"} else ""
                continue
            stack.append((element, True, preformatted))
            inside = preformatted or element.name == "pre"
            stack.extend((child, False, inside) for child in reversed(element.contents))
        elif isinstance(element, NavigableString) and not isinstance(element, PreformattedString):
            _write(lines, str(element), preformatted=preformatted)
    text = "\n".join(line.rstrip() for line in lines)
    return text.strip("\n") + "\n"


def _write(lines: list[str], text: str, *, preformatted: bool) -> None:
    if preformatted:
        first, *others = text.replace("\r\n", "\n").split("\n")
        lines[-1] += first
        lines.extend(others)
        return
    folded = _SPACE.sub(" ", text)
    lines[-1] += folded.lstrip() if not lines[-1] or lines[-1].endswith((" ", "\t")) else folded
