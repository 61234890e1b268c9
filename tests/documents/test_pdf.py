"""PDF pages, and the files that have none to read."""

from __future__ import annotations

from io import BytesIO

import pypdf
import pytest
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from megacontext.errors import NotTextError


def make_pdf(pages, *, password="", author=""):
    """A PDF with one line of text per page; an empty string gives a page without text."""
    writer = pypdf.PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(300, 300)
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode("latin-1"))
        page[NameObject("/Contents")] = writer._add_object(stream)
        fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    if author:
        writer.add_metadata({"/Author": author})
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    buffer = BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def test_one_section_per_page_with_text(parsed):
    document = parsed("a.pdf", make_pdf(["First page", "", "Third page"], author="Ann"))
    assert document.kind == "pdf"
    assert document.author == "Ann"
    assert document.text == "First page\n\nThird page\n\n"
    assert [section.title for section in document.sections] == ["page 1", "page 3"]


def test_the_signature_decides_not_the_name(parsed):
    assert parsed("no_suffix", make_pdf(["Text"])).kind == "pdf"
    with pytest.raises(NotTextError, match="damaged PDF"):
        parsed("plain.pdf", "this is plain text")


def test_encrypted(parsed):
    with pytest.raises(NotTextError, match=r"is encrypted; .*qpdf"):
        parsed("a.pdf", make_pdf(["Secret"], password="key"))


def test_scans_have_no_text(parsed):
    with pytest.raises(NotTextError, match=r"no text on its 2 pages .*text recognition"):
        parsed("a.pdf", make_pdf(["", ""]))


def test_damage_is_one_clear_line(parsed):
    whole = make_pdf(["Some text", "More"])
    problems = []
    for cut in range(0, len(whole), 37):
        for broken in (whole[: max(9, cut)], whole[:9] + b"\xff" * 20 + whole[cut:]):
            try:
                assert parsed("a.pdf", broken).text.strip()
            except NotTextError as error:
                problems.append(str(error))
    assert len(problems) > 10
    assert all("\n" not in problem and ";" in problem for problem in problems)
