"""The bytes of text that each token stands for.

Nearly all vocabularies of language models spell a text byte for byte: byte-level ones in letters of their own (GPT-2,
Llama 3, Qwen), SentencePiece ones in pieces and ``<0x41>`` (Llama 2, Mistral, Gemma). With the bytes of each token at
hand, a text of tokens is those bytes joined: it does not depend on where one starts to read, a stream of it needs no
look back, and their lengths say where each token begins.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from tokenizers import Tokenizer

from megacontext.bases.tokenizer_spec import SPACE, parts

__all__ = ["token_bytes"]

BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# Decoders that join pieces of text, and do nothing else once no space is taken off the front.
JOINING = {"Replace", "ByteFallback", "Fuse", "Metaspace"}


def token_bytes(spec: dict[str, Any], tokenizer: Tokenizer, vocab_size: int) -> list[bytes] | None:
    """Bytes by token id, none for control tokens and ids that no token has; None where tokens stand for bytes only in
    company (a decoder that puts spaces between words, for one).

    spec: as ``plain_spec`` gives it; tokenizer: made of it.
    """
    decoders = list(parts(spec.get("decoder")))
    kinds = {part["type"] for part in decoders}
    is_byte_level = "ByteLevel" in (kinds or {part["type"] for part in parts(spec.get("pre_tokenizer"))})
    if not (is_byte_level or (kinds and kinds <= JOINING and all(map(_is_plain, decoders)))):
        return None
    table = [b""] * vocab_size
    has_bytes = "ByteFallback" in kinds
    for piece, token_id in tokenizer.get_vocab(with_added_tokens=False).items():
        table[token_id] = _byte_level(piece) if is_byte_level else _joined(piece, has_bytes=has_bytes)
    for token_id, added in tokenizer.get_added_tokens_decoder().items():
        content = added.content if is_byte_level else added.content.replace(SPACE, " ")
        table[token_id] = b"" if added.special else content.encode()
    return table


def _is_plain(decoder: dict[str, Any]) -> bool:
    """Whether all that a decoder replaces is the sign for a space."""
    if decoder["type"] == "Replace":
        return bool(decoder["pattern"] == {"String": SPACE} and decoder["content"] == " ")
    return bool(decoder["type"] != "Metaspace" or decoder.get("replacement", SPACE) == SPACE)


def _joined(piece: str, *, has_bytes: bool) -> bytes:
    if has_bytes and BYTE_PIECE.fullmatch(piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(SPACE, " ").encode()


def _byte_level(piece: str) -> bytes:
    """A piece that holds other letters than those for bytes stands for itself, as the library has it."""
    letters = _letters()
    if any(letter not in letters for letter in piece):
        return piece.encode()
    return bytes(letters[letter] for letter in piece)


@cache
def _letters() -> dict[str, int]:
    """GPT-2's letter for each byte: printable ones stand for themselves, the rest for U+0100 and up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}
