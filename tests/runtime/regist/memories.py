"""What a memory holds, whatever base it is of."""

from __future__ import annotations

import dataclasses

from megacontext.runtime import assembly
from megacontext.storage.blobs import FileBlobs

UNICODE = "Grüße, 狐狸! 🦊 <|endoftext|> and \u200d odd \x7f things.\n"


def contents(folder, **how):
    """All that a memory says, and what of it may not depend on the base."""
    with assembly.open(folder, read_only=True, **how) as memory:
        num = memory.num_tokens
        levels = range(1, memory.num_levels)
        num_nodes = [memory.tree.num_nodes(level, num) for level in levels]
        sources = memory.sources()
        quotes = [memory.provenance(source.token_start, source.token_stop) for source in sources]
        return {
            "tokens": memory.tokens(0, num).tolist(),
            "gists": [memory.gists(level, 0, n).tobytes() for level, n in zip(levels, num_nodes, strict=True)],
            "sources": sources,
            "extents": [
                (source.source_id, extent.token_start, extent.token_stop, extent.anchors.tolist())
                for source, extent in memory._parts.catalog.extents(0, num)
            ],
            "hits": memory.search_hits("fox dog", limit=100),
            "said": [
                dataclasses.replace(source, token_start=0, token_stop=0, num_bytes=0) for source in sources
            ],
            "quotes": [
                [
                    (q.uri, q.version, q.title, q.role, q.time, q.byte_start, q.byte_stop, q.line_start, q.text)
                    for q in found
                    if q.kind != "tokens"
                ]
                for found in quotes
            ],
        }  # fmt: skip


def has_text(folder, text):
    """Whether a blob, or any token of any generation, still gives a text."""
    blobs = FileBlobs(folder)
    if any(text.encode() in blobs.get(digest) for digest in blobs.digests()):
        return True
    places = [folder, *(folder / "generations").glob("*")]
    for place in places:
        if (place / "catalog.sqlite").exists():
            with assembly.open(place, read_only=True) as memory:
                found = [result.text for result in memory.search(text)]
                if any(text in said for said in (memory.text(0, memory.num_tokens), *found)):
                    return True
    return False
