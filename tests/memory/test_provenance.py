"""Every span leads back to its source, word for word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.ports.text import Encoded

TEXT = "Line one.\nZeile zwei: süß, 🏳️‍🌈!\n\nline four ends here" * 3


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_span_is_quoted_exactly(kit, data):
    memory = kit.make_memory()
    memory.append([65, 66])
    memory.ingest(text=TEXT, source="book")
    raw = TEXT.encode()
    start = data.draw(st.integers(0, len(raw) - 1))
    stop = data.draw(st.integers(start + 1, len(raw)))
    (quote,) = memory.provenance(2 + start, 2 + stop)
    assert quote.exact
    # widened to whole characters on both sides, and to no more
    assert quote.byte_start <= start
    assert quote.byte_stop >= stop
    assert quote.text == raw[quote.byte_start : quote.byte_stop].decode()
    assert start - quote.byte_start < 4
    assert quote.byte_stop - stop < 4
    assert raw[start] & 0xC0 == 0x80 or quote.byte_start == start
    assert quote.line_start == raw[: quote.byte_start].count(b"\n") + 1
    assert quote.line_stop == raw[: quote.byte_stop - 1].count(b"\n") + 1


def test_a_span_over_several_sources(kit, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"role": "user", "content": "what?"}\n{"role": "assistant", "content": "that.", "time": 7}\n')
    memory = kit.make_memory()
    memory.append([72, 105], source="keys", role="user")
    memory.ingest(log, labels={"a": "b"}, licence="CC0")
    memory.ingest(text="end", source="note")
    quotes = memory.provenance(0, memory.num_tokens)
    assert [(q.uri.rsplit("/", 1)[-1], q.kind, q.role, q.text) for q in quotes] == [
        ("keys", "tokens", "user", "Hi"),
        ("log.jsonl", "chat", "user", "user: what?\n\n"),
        ("log.jsonl", "chat", "assistant", "assistant: that.\n\n"),
        ("note", "text", "", "end"),
    ]
    # turns of a chat log are quoted from a text that the file does not have, so no lines are named
    assert [(q.line_start, q.line_stop) for q in quotes] == [(0, 0), (0, 0), (0, 0), (1, 1)]
    assert quotes[2].time == 7
    assert quotes[2].licence == "CC0"
    assert quotes[2].labels == {"a": "b"}
    assert memory.provenance(1, 1) == []
    assert memory.provenance(0, 1)[0].text == "H"


class ShoutingCodec:
    """Decodes to another text than it encoded, as tokenizers that normalise do."""

    vocab_size = 300
    fingerprint = "shout"

    def encode(self, text):
        ids = np.array([ord(character) for character in text.upper()], np.uint32)
        return Encoded(token_ids=ids, char_starts=np.arange(len(text)))

    def encode_batch(self, texts):
        return [self.encode(text) for text in texts]

    def decode(self, token_ids):
        return "".join(map(chr, token_ids.tolist()))


def test_a_tokenizer_that_changes_text_widens_to_anchors(kit):
    memory = kit.make_memory(codec=ShoutingCodec())
    memory.ingest(text="abcdefgh" * 10)
    (quote,) = memory.provenance(33, 34)
    assert not quote.exact
    assert (quote.byte_start, quote.byte_stop) == (32, 64)
    assert quote.text == ("abcdefgh" * 10)[32:64]
    (quote,) = memory.provenance(32, 80)
    assert quote.exact


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 65])
def test_borders_of_anchors(kit, length):
    memory = kit.make_memory()
    text = "ü" * length
    memory.ingest(text=text)
    for start in range(length):
        (quote,) = memory.provenance(2 * start, 2 * start + 2)
        assert (quote.text, quote.exact) == ("ü", True)
