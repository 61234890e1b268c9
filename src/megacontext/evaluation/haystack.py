"""A memory of real text with hidden facts in it, made the way that a user makes one: files, ingested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from megacontext.bases.registry import BaseHandle
from megacontext.evaluation.hidden_facts import Fact, HiddenFact, draw_facts, hide_facts, locate
from megacontext.evaluation.library import Library, Text
from megacontext.memory.reports import IngestProgress, IngestReport
from megacontext.ports.catalog import Source
from megacontext.runtime.assembly import open as open_memory
from megacontext.runtime.opened import OpenedMemory

__all__ = ["MEMORY_NAME", "TEXTS_FOLDER", "Haystack", "build_haystack", "history_memory", "sources_of", "text_name"]

MEMORY_NAME = "demo.mc"
TEXTS_FOLDER = "library"


@dataclass(frozen=True, kw_only=True)
class Haystack:
    """texts: what was read, with the facts in it; hidden, spans: each fact's place in the text and in the memory."""

    memory: OpenedMemory
    folder: Path
    texts: Sequence[Text]
    hidden: Sequence[HiddenFact]
    spans: Sequence[tuple[int, int]]
    report: IngestReport


def build_haystack(
    folder: Path,
    handle: BaseHandle,
    library: Library,
    *,
    seed: int,
    gister: str,
    num_facts: int = 0,
    facts: Sequence[Fact] = (),
    progress: Callable[[IngestProgress], None] | None = None,
) -> Haystack:
    """Write the library with facts hidden in it below ``folder``, and ingest it into a new memory there.

    num_facts: so many are drawn, where none are given by ``facts``.
    """
    random = Random(seed)
    texts, hidden = hide_facts(random, library.texts, facts or draw_facts(random, num_facts))
    paths = [write_text(folder / TEXTS_FOLDER, text) for text in texts]
    memory = open_memory(folder / MEMORY_NAME, base=handle, create=True, gister=gister)
    try:
        report = memory.ingest(paths, progress=progress)
        sources = {source.uri: source for source in memory.sources()}
        placed = [sources[paths[fact.text].resolve().as_uri()] for fact in hidden]
        spans = [_span(memory, source, fact) for source, fact in zip(placed, hidden, strict=True)]
    except BaseException:
        memory.close()
        raise
    return Haystack(memory=memory, folder=folder / MEMORY_NAME, texts=texts, hidden=hidden, spans=spans, report=report)


def write_text(folder: Path, text: Text) -> Path:
    """The file of a text, for people to look into."""
    path = folder / text.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.text, encoding="utf-8", newline="\n")
    return path


def history_memory(folder: Path, handle: BaseHandle, like: OpenedMemory, num_tokens: int) -> OpenedMemory:
    """A memory of the first ``num_tokens`` tokens of another. Its gists are means: what a session pays for
    them does not depend on who made them."""
    memory = open_memory(folder, base=handle, create=True, gister="mean")
    memory.append(like.tokens(0, num_tokens), source="history")
    return memory


def text_name(uri: str) -> str:
    """What a source is called below the folder of texts, without this machine's path."""
    return uri.rpartition(f"/{TEXTS_FOLDER}/")[2]


def sources_of(haystack: Haystack) -> list[tuple[int, str, str]]:
    """``(first token, title, kind)`` of what was read, in order."""
    kinds = {text.name: text for text in haystack.texts}
    found = []
    for source in haystack.memory.sources():
        name = text_name(source.uri)
        if name in kinds:
            found.append((source.token_start, kinds[name].title, kinds[name].kind))
    return found


def _span(memory: OpenedMemory, source: Source, fact: HiddenFact) -> tuple[int, int]:
    start, stop = locate(memory.codec, memory.tokens(source.token_start, source.token_stop), fact.statement)
    return source.token_start + start, source.token_start + stop
