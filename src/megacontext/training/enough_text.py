"""Whether there is text to train on at all, asked before minutes are spent on cleaning it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from megacontext.errors import InvalidValueError
from megacontext.training.babi import has_stories, read_stories
from megacontext.training.corpus import BOOKS, KNOWLEDGE, read_books, read_knowledge

__all__ = ["check_records", "origins", "refuse_short"]


def check_records(data: Path, least_tokens: Mapping[str, int]) -> None:
    """Read through all files of records: a broken line, or none at all, is said at once and not after minutes."""
    for _ in read_books(data, "validation"):
        pass
    if has_stories(data):
        for _ in read_stories(data, "train"):
            pass
    texts = {"books": read_books(data, "train"), "knowledge": read_knowledge(data, held_out=False)}
    num_chars = {domain: sum(len(document.text) for document in some) for domain, some in texts.items()}
    asked = {domain: least for domain, least in least_tokens.items() if domain in num_chars and not num_chars[domain]}
    refuse_short(num_chars, asked, where=origins(data))


def origins(data: Path) -> dict[str, str]:
    """Where text to train on comes from, by domain."""
    code = "what is read of the standard library and --packages"
    return {"books": str(data / BOOKS["train"]), "code": code, "knowledge": str(data / KNOWLEDGE)}


def refuse_short(
    num_tokens: Mapping[str, int],
    least_tokens: Mapping[str, int],
    *,
    where: Mapping[str, str],
    removed: Mapping[str, int] = MappingProxyType({}),
    fix: str = "give more text",
) -> None:
    """Raise InvalidValueError for the first domain that has fewer tokens to train on than rows need.

    where: what has to hold more, by domain; removed: documents that cleaning took away; fix: what to do.
    """
    for domain, least in least_tokens.items():
        if num_tokens[domain] < least:
            cleaning = f" (cleaning removed {removed[domain]:,} documents)" if removed.get(domain) else ""
            raise InvalidValueError(
                f"{where[domain]} gives {num_tokens[domain]:,} tokens of {domain} to train on{cleaning}, but rows need "
                f"{least:,}; {fix}, or take {domain!r} out of [shares]"
            )
