"""Text out of a stream of tokens, character by whole character.

A character may be spread over several tokens. Where each token stands for bytes of its own, a UTF-8 decoder holds back
what is not whole yet. Other tokenizers decode a token by its neighbours (some drop the space before the first token of
a text): there a token is decoded together with those before it, and text is handed out once no later token can change
it.
"""

from __future__ import annotations

import codecs

import numpy as np

from megacontext.ports.text import SupportsTokenBytes, TextCodec

__all__ = ["Detokenizer"]

# No UTF-8 character is longer, and each token has at least one byte: beyond it the bytes are no character at all.
MAX_CHARACTER_BYTES = 4
# Tokens decoded again in front of the new ones, so that leading spaces are treated as inside a text.
CONTEXT_TOKENS = 4
REPLACEMENT = "\ufffd"
NO_TOKENS = np.zeros(0, dtype=np.uint32)


class Detokenizer:
    """Feed token ids to ``push``; what it returns, and at the end ``flush``, joins to the decoded text."""

    def __init__(self, codec: TextCodec) -> None:
        self._stream: _ByteStream | _WindowStream = _WindowStream(codec)
        if isinstance(codec, SupportsTokenBytes) and codec.bytes_of(NO_TOKENS) is not None:
            self._stream = _ByteStream(codec)

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; often empty."""
        return self._stream.push(token_id)

    def flush(self) -> str:
        """The rest; bytes that never became a character show as U+FFFD."""
        return self._stream.flush()


class _ByteStream:
    """Tokens that stand for bytes."""

    def __init__(self, codec: SupportsTokenBytes) -> None:
        self._codec = codec
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        return self._decoder.decode(self._codec.bytes_of(np.array([token_id], dtype=np.uint32)) or b"")

    def flush(self) -> str:
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


class _WindowStream:
    """Tokens that are decoded with those before them."""

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        self._pending.append(token_id)
        if not self._new_text(len(self._pending)).endswith(REPLACEMENT):
            return self._emit(len(self._pending))
        if len(self._pending) < MAX_CHARACTER_BYTES:
            return ""
        return self._emit(self._num_certain())

    def flush(self) -> str:
        return self._emit(len(self._pending))

    def _num_certain(self) -> int:
        """How many pending tokens end at a border of characters, although none of them completed one."""
        whole = self._new_text(len(self._pending))
        for count in range(len(self._pending) - 1, 0, -1):
            if self._new_text(count) + self._decode(self._pending[count:]) == whole:
                return count
        return len(self._pending)

    def _new_text(self, num_pending: int) -> str:
        return self._decode(self._context + self._pending[:num_pending])[len(self._decode(self._context)) :]

    def _emit(self, num_pending: int) -> str:
        text = self._new_text(num_pending)
        self._context = (self._context + self._pending[:num_pending])[-CONTEXT_TOKENS:]
        del self._pending[:num_pending]
        return text

    def _decode(self, token_ids: list[int]) -> str:
        return self._codec.decode(np.asarray(token_ids, dtype=np.uint32))
