"""Conformance suite of ``TextCodec``: subclass it, say how to make yours, and run it with pytest.

class TestMyCodec(TextCodecSuite):
    def make(self):
        return MyCodec()
"""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.bases.detokenize import Detokenizer
from megacontext.errors import InvalidValueError
from megacontext.ports.text import SupportsTokenBytes, TextCodec

__all__ = ["TEXTS", "TextCodecSuite"]

TEXTS = (
    "",
    "plain text, 42 times.",
    "  spaces   and\ttabs \n\n lines\r\n ",
    "naïve “日本語” e\u0301 \U0001f9d1\u200d\U0001f680",
    "\x00\x1b[31m\u2028\ufeff\u2581 <0x41>",
    "x" * 500,
)


class TextCodecSuite:
    """What a memory asks of a codec whose tokens keep all of a text."""

    control_texts: tuple[str, ...] = ("<s>", "</s>", "<|im_end|>", "<|endoftext|>")  # none may become a control token
    control_ids: frozenset[int] = frozenset()

    def make(self) -> TextCodec:
        """The codec to test."""
        raise NotImplementedError

    @pytest.mark.parametrize("text", TEXTS)
    def test_text_comes_back(self, text: str) -> None:
        codec = self.make()
        encoded = codec.encode(text)
        assert codec.decode(encoded.token_ids) == text
        assert encoded.token_ids.dtype == np.uint32
        assert encoded.char_starts.dtype == np.int64
        assert not len(encoded.token_ids) or encoded.token_ids.max() < codec.vocab_size

    @pytest.mark.parametrize("text", TEXTS)
    def test_a_token_begins_where_the_text_before_it_ends(self, text: str) -> None:
        codec = self.make()
        encoded = codec.encode(text)
        assert len(encoded.char_starts) == len(encoded.token_ids)
        for place in range(0, len(encoded.token_ids), 7):
            before = codec.decode(encoded.token_ids[:place]).rstrip("\ufffd")
            assert encoded.char_starts[place] == len(before)

    def test_a_batch_is_its_texts(self) -> None:
        codec = self.make()
        for text, encoded in zip(TEXTS, codec.encode_batch(list(TEXTS)), strict=True):
            np.testing.assert_array_equal(encoded.token_ids, codec.encode(text).token_ids)
            np.testing.assert_array_equal(encoded.char_starts, codec.encode(text).char_starts)

    def test_nothing_is_added_where_texts_meet(self) -> None:
        codec = self.make()
        token_ids = np.concatenate([codec.encode(text).token_ids for text in TEXTS])
        assert codec.decode(token_ids) == "".join(TEXTS)

    def test_a_stream_is_the_text_in_whole_characters(self) -> None:
        codec = self.make()
        text = "".join(TEXTS)
        detokenizer = Detokenizer(codec)
        pieces = [*map(detokenizer.push, codec.encode(text).token_ids.tolist()), detokenizer.flush()]
        assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)

    def test_bytes_are_those_of_the_text(self) -> None:
        codec = self.make()
        if isinstance(codec, SupportsTokenBytes):
            for text in TEXTS:
                assert codec.bytes_of(codec.encode(text).token_ids) in (None, text.encode())

    def test_text_of_control_tokens_is_text(self) -> None:
        codec = self.make()
        text = " ".join(self.control_texts)
        token_ids = codec.encode(text).token_ids
        assert codec.decode(token_ids) == text
        assert self.control_ids.isdisjoint(token_ids.tolist())

    def test_half_a_surrogate_pair_is_refused(self) -> None:
        with pytest.raises(InvalidValueError, match="surrogate"):
            self.make().encode("ab\ud800")
