"""Streaming text equals decoding at once, and never shows half a character."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megacontext.bases.detokenize import Detokenizer
from megacontext.bases.tokenizers_codec import TokenizersCodec
from megacontext.ports.text import TextCodec
from megacontext.testing.fake_base import byte_codec
from megacontext.testing.model_folder import tiny_tokenizer

ODD = "naïve café — 日本語 🧑\u200d🚀 e\u0301 \x00\t\r\n\U0010ffff"


def stream(codec: TextCodec, token_ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(codec)
    return [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.flush()]


@given(st.text(max_size=30))
def test_whole_characters_only(text: str) -> None:
    pieces = stream(byte_codec(), list(text.encode()))
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces if "\ufffd" not in text)


@given(st.binary(max_size=40))
def test_bytes_that_are_no_text_come_out_as_decoding_at_once(data: bytes) -> None:
    assert "".join(stream(byte_codec(), list(data))) == data.decode(errors="replace")


def test_byte_level_bpe() -> None:
    codec = TokenizersCodec(json.loads(tiny_tokenizer().to_str()))
    token_ids = codec.encode(ODD).token_ids
    assert "".join(stream(codec, token_ids.tolist())) == ODD
    assert stream(codec, np.array([], dtype=np.uint32).tolist()) == [""]
