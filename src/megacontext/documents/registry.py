"""Which format a file has, and who parses it. A new format is one file, one line in PARSERS, one in the suffixes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from megacontext.documents import chat, html, pdf, plain
from megacontext.documents.decoding import is_binary
from megacontext.documents.document import Parsed

__all__ = ["PARSERS", "SUFFIXES", "Parser", "is_document", "is_plain", "kind_of"]

Parser = Callable[[bytes, str], Parsed]  # of the bytes of a file, and of its name for messages

PARSERS: Mapping[str, Parser] = {
    "chat": chat.parse,
    "code": plain.parse,
    "html": html.parse,
    "markdown": plain.parse,
    "pdf": pdf.parse,
    "text": plain.parse,
}

_CODE = (
    ".adoc .asm .bash .bat .bzl .c .cc .cfg .clj .cmake .conf .cpp .cs .css .csv .cu .cuh .d .dart .diff .el .ex .exs "
    ".f90 .fs .go .gradle .graphql .groovy .h .hpp .hs .ini .java .jl .js .json .jsx .kt .less .lisp .lua .m .mjs .ml "
    ".mm .nim .nix .pas .patch .php .pl .pm .proto .ps1 .py .pyi .r .rb .rs .s .scala .scm .scss .sh .sql .sv .swift "
    ".tcl .tex .tf .toml .ts .tsx .v .vb .vhd .vue .xml .yaml .yml .zig .zsh"
)
SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys(_CODE.split(), "code"),
    ".htm": "html",
    ".html": "html",
    ".markdown": "markdown",
    ".md": "markdown",
    ".mdown": "markdown",
    ".pdf": "pdf",
    ".xhtml": "html",
}
_CHAT_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson"})
_CODE_NAMES = frozenset({"cmakelists.txt", "dockerfile", "jenkinsfile", "makefile", "rakefile"})


def kind_of(path: Path, raw: bytes) -> str:
    """The kind of source that a file is, by its name and first bytes; ``text`` if nothing else is known."""
    suffix = path.suffix.lower()
    if raw.startswith(pdf.SIGNATURE):
        return "pdf"
    if suffix in _CHAT_SUFFIXES and chat.looks_like_chat(raw):
        return "chat"
    if path.name.lower() in _CODE_NAMES:
        return "code"
    return SUFFIXES.get(suffix, "text")


def is_document(path: Path, raw: bytes) -> bool:
    """Whether a file can be read as text in some format."""
    return SUFFIXES.get(path.suffix.lower()) == "pdf" or raw.startswith(pdf.SIGNATURE) or not is_binary(raw)


def is_plain(path: Path, head: bytes) -> bool:
    """Whether a long file that begins so is its own text, so that it can be read in pieces."""
    if path.suffix.lower() in _CHAT_SUFFIXES and chat.may_be_chat(head):
        return False
    return PARSERS[kind_of(path, head)] is plain.parse
