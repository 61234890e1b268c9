"""PDF: the text of each page as a section of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import pypdf
import pypdf.errors

from megacontext.documents.decoding import without_surrogates
from megacontext.documents.document import Parsed, Section
from megacontext.errors import NotTextError, SourceError

__all__ = ["SIGNATURE", "parse"]

SIGNATURE = b"%PDF-"


def parse(raw: bytes, name: str) -> Parsed:
    """Raises: NotTextError if the file is damaged, encrypted, or has only pictures of text."""
    with _quiet_library():
        try:
            reader = pypdf.PdfReader(BytesIO(raw))
            if reader.is_encrypted and not reader.decrypt(""):
                raise NotTextError(f"{name} is encrypted; remove its password first, for example with `qpdf --decrypt`")
            pages = [without_surrogates(page.extract_text().replace("\0", "")).strip() for page in reader.pages]
            author = str((reader.metadata or {}).get("/Author", "") or "")
        except pypdf.errors.DependencyError as error:
            raise NotTextError(f"{name} is encrypted; decrypt it first, for example with `qpdf --decrypt`") from error
        except SourceError:
            raise
        except Exception as error:  # the library raises whatever a damaged file leads it to
            problem = " ".join(f"{type(error).__name__}: {error}".split())
            raise NotTextError(
                f"{name} is a damaged PDF ({problem}); repair it, for example with `mutool clean`"
            ) from error
    if not any(pages):
        raise NotTextError(f"{name} has no text on its {len(pages)} pages (a scan?); run text recognition on it first")
    return _paged(pages, without_surrogates(author))


def _paged(pages: list[str], author: str) -> Parsed:
    """Pages end to end, an empty line between them."""
    sections = []
    position = 0
    texts = [page + "\n\n" if page else "" for page in pages]
    for number, text in enumerate(texts, start=1):
        if text:
            sections.append(Section(char_start=position, char_stop=position + len(text), title=f"page {number}"))
        position += len(text)
    return Parsed(text="".join(texts), sections=tuple(sections), author=author)


@contextmanager
def _quiet_library() -> Iterator[None]:
    """The library logs every oddity of a file that it copes with; what matters comes as an exception."""
    logger = logging.getLogger("pypdf")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
