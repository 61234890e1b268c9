"""Text in all its encodings, and what is refused."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from megacontext.documents.decoding import decode_text, encodings_of, is_binary, without_surrogates
from megacontext.documents.registry import SUFFIXES
from megacontext.errors import EmptySourceError, NotTextError

ODD = "e\u0301 ﷽ 🏳️‍🌈 \u202eright-to-left\u202c \ufeffinner mark \u2028 line \r\n\ttab \x1b[31m \U0010ffff"


@pytest.mark.parametrize(
    "raw",
    [
        ODD.encode(),
        codecs.BOM_UTF8 + ODD.encode(),
        codecs.BOM_UTF16_LE + ODD.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + ODD.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + ODD.encode("utf-32-le"),
        codecs.BOM_UTF32_BE + ODD.encode("utf-32-be"),
    ],
)
def test_odd_text_survives_every_encoding(parsed, raw):
    document = parsed("odd.txt", raw)
    assert document.text == ODD
    assert document.kind == "text"
    assert raw in encodings_of(document.text)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_every_encoding_decodes_to_the_same_text(text):
    assume(not text.startswith("\ufeff"))  # cannot be told from a byte-order mark
    for raw in encodings_of(text):
        assert decode_text(raw, "x") == text


def test_other_encodings_are_refused_with_the_place(parsed):
    with pytest.raises(NotTextError, match=r"byte 0xe9 at 3; .*iconv"):
        parsed("latin.txt", b"caf\xe9 au lait")
    with pytest.raises(NotTextError, match=r"UTF-16-LE.*ends amid a character"):
        parsed("cut.txt", codecs.BOM_UTF16_LE + b"a\0b")
    with pytest.raises(NotTextError, match="UTF-8: byte 0xc3 at 3; it ends amid a character"):
        parsed("short.txt", b"caf\xc3")
    with pytest.raises(NotTextError, match=r"UTF-16-LE.*damaged"):
        parsed("lone.txt", codecs.BOM_UTF16_LE + b"\x00\xdca\0")
    with pytest.raises(NotTextError, match="zero character at 3"):
        parsed("zero.txt", b"abc\0" + b" " * 20)


def test_nothing_to_read(parsed):
    with pytest.raises(EmptySourceError, match="0 bytes"):
        parsed("empty.txt", b"")
    with pytest.raises(EmptySourceError, match="no text"):
        parsed("blank.txt", " \n\t ")
    with pytest.raises(EmptySourceError, match="no text"):
        parsed("mark.txt", codecs.BOM_UTF8)


@pytest.mark.parametrize(
    ("raw", "binary"),
    [
        (b"plain", False),
        (b"caf\xe9", False),
        (ODD.encode(), False),
        (codecs.BOM_UTF16_LE + "ab".encode("utf-16-le"), False),
        (b"\x89PNG\r\n\x1a\n", True),
        (b"\x7fELF\x02\x01", True),
        (b"PK\x03\x04rest", True),
        (b"text with a \0 in it", True),
        (bytes(range(1, 32)) * 3, True),
    ],
)
def test_binary(raw, binary):
    assert is_binary(raw) is binary


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.md", "markdown"),
        ("A.MD", "markdown"),
        ("a.py", "code"),
        ("Makefile", "code"),
        ("a.json", "code"),
        ("a.jsonl", "text"),
        ("a.unknown", "text"),
        ("README", "text"),
    ],
)
def test_kinds_and_verbatim_text(parsed, name, kind):
    content = "# *Title*\r\n\r\n    if a <b>:\n\tpass\n\n\n"
    document = parsed(name, content)
    assert document.kind == kind
    assert document.text == content


def test_suffixes_are_lower_case_and_parsed():
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES)


def test_surrogates():
    assert without_surrogates("a\ud800b") == "a\ufffdb"
    assert without_surrogates("\ud83d\ude00") == "😀"
    assert without_surrogates("\ufeff\ud800") == "\ufeff\ufffd"
    assert without_surrogates(ODD) == ODD
