"""``TextCodec`` on the ``tokenizers`` library: text to ids and back, without the habits of a chat model.

A memory holds text that strangers wrote. So no special token is added, and text that merely *looks* like a control
token (``<|endoftext|>``, ``<think>``) is encoded as the plain characters it is: data cannot end a document or open a
tool call. Works from ``tokenizer.json`` alone; neither torch nor transformers is imported.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from megacontext.bases.token_bytes import token_bytes
from megacontext.bases.tokenizer_spec import SPACE, TokenizerHabits, has_byte_pieces, parts, plain_spec
from megacontext.errors import BaseModelError, InvalidTokensError, InvalidValueError
from megacontext.ports.text import Encoded
from megacontext.values import shown
from megacontext.values import text as valid_text

__all__ = ["TokenizersCodec"]

# What decides which ids a text gets. Decoders, chat templates, truncation and padding do not.
ID_PARTS = ("normalizer", "pre_tokenizer", "model", "added_tokens")

PIECE_CHARACTERS = 1 << 14
# A line end between two characters that are not white space.
LINE_END = re.compile(r"\S\n(?=\S)")
# The same inside a token: newline, then neither white space nor newline.
OVER_LINE_END = re.compile(rb"\n[^\n \t\r]")
# One character of each class that pre-tokenizers tell apart, on either side of a line end.
LINE_PROBES = ["a", "Z", "7", "日", ".", ")", "_", "'s", "#", "é", "\u0301", "🧑"]
# Text that a vocabulary with byte pieces would take for something else: a space, and a byte.
SPACE_SIGN = re.compile(SPACE)
SPACE_OR_BYTE = re.compile(SPACE + "|<(?=0x[0-9A-Fa-f]{2}>)")


class TokenizersCodec:
    """A ``tokenizer.json`` as a ``TextCodec``.

    spec: the parsed content of a ``tokenizer.json``; name: of the file, for messages. ``control_ids`` says which id
    each control token has, as the model's own templates write it: for text it is never used. ``habits`` says what the
    file would do, had it been let.
    Raises BaseModelError when the library cannot read it.
    """

    def __init__(self, spec: dict[str, Any], *, name: str = "tokenizer.json") -> None:
        identity = json.dumps({part: spec.get(part) for part in ID_PARTS}, sort_keys=True, ensure_ascii=True)
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()
        try:
            plain, names = plain_spec(spec)
            self.habits = TokenizerHabits.of(spec)
            tokens = spec.get("added_tokens") or []
            self._swallows = {token["content"]: (token["lstrip"], token["rstrip"]) for token in tokens}
            self._tokenizer = Tokenizer.from_str(json.dumps(plain))
        except Exception as error:
            raise BaseModelError(f"{name} cannot be read: {shown(error)}; save it again with tokenizers") from error
        if not spec["model"].get("vocab"):  # what was added to it stands for no text
            raise BaseModelError(f"{name}: its vocabulary has no tokens; copy or save the tokenizer again")
        self._tokenizer.encode_special_tokens = True
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        self.control_ids = {text: vocabulary[name] for text, name in names.items()}
        self.vocab_size = 1 + max(vocabulary.values(), default=-1)
        self._bytes = token_bytes(plain, self._tokenizer, self.vocab_size)
        self._num_bytes = _byte_lengths(plain, self._bytes)
        self._spelled = _spelled(plain) if self._bytes is not None else None
        self._breaks_at_lines = _breaks_at_lines(self._tokenizer, self._bytes)

    @classmethod
    def from_file(cls, path: Path) -> TokenizersCodec:
        """Read a ``tokenizer.json``; BaseModelError when it is missing or broken."""
        problem: object = None
        try:
            spec = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            problem = error
        else:
            problem = None if isinstance(spec, dict) else f"holds {shown(spec)}"
        if problem is not None:
            raise BaseModelError(f"{path}: not a readable tokenizer.json ({problem}); save the tokenizer again")
        return cls(spec, name=str(path))

    def encode(self, text: str) -> Encoded:
        """Ids of a text, and where each token begins."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[Encoded]:
        """Many texts at once, on all cores that the library is given."""
        if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
            raise InvalidValueError(f"texts is {shown(texts)}; give a list of str")
        texts = list(texts)
        bytes_of = [_utf8(text) for text in texts]
        if self._num_bytes is None:
            return [self._with_offsets(text) for text in texts]
        pieces = [self._pieces(text) for text in texts]
        encodings = iter(
            self._tokenizer.encode_batch_fast(list(itertools.chain.from_iterable(pieces)), add_special_tokens=False)
        )
        encoded = []
        for text, data, parts_of in zip(texts, bytes_of, pieces, strict=True):
            ids = [np.asarray(next(encodings).ids, dtype=np.uint32) for _ in parts_of]
            encoded.append(self._from_byte_lengths(text, data, np.concatenate(ids)))
        return encoded

    @property
    def has_bytes(self) -> bool:
        """Whether tokens stand for bytes each by itself, so that ``bytes_of`` knows them."""
        return self._bytes is not None

    def template_parts(self, text: str) -> list[int | str]:
        """What the model's own files write, in ids of control tokens and the text among them.

        Never for what a user or a document says. White space beside a token that swallows it is left out.
        """
        found: list[int | str] = []
        swallows_next = False
        names = "|".join(map(re.escape, sorted(self.control_ids, key=len, reverse=True)))
        for part in re.split(f"({names})", text) if names else [text]:
            if part in self.control_ids:
                swallows_before, swallows_behind = self._swallows[part]
                if swallows_before and found and isinstance(found[-1], str):
                    found[-1] = found[-1].rstrip()
                found.append(self.control_ids[part])
                swallows_next = swallows_behind
            elif part:
                found.append(part.lstrip() if swallows_next else part)
                swallows_next = False
        return [part for part in found if part != ""]

    def bytes_of(self, token_ids: npt.NDArray[np.uint32]) -> bytes | None:
        """UTF-8 of ids, in which a character may be cut at either end; None where tokens stand for bytes only in
        company. Control tokens and ids that no token has are no bytes."""
        if self._bytes is None:
            return None
        known = token_ids[token_ids < self.vocab_size]
        return b"".join(map(self._bytes.__getitem__, known.tolist()))

    def decode(self, token_ids: npt.NDArray[np.uint32]) -> str:
        """Text of ids. Control tokens and ids that no token has show nothing; a cut character shows U+FFFD."""
        if not isinstance(token_ids, np.ndarray):
            raise InvalidTokensError(
                f"token_ids is {shown(token_ids)}; give a flat array of integers, such as tokens()"
            )
        if token_ids.ndim != 1 or token_ids.dtype.kind not in "ui":
            raise InvalidTokensError(
                f"token ids have shape {token_ids.shape} and dtype {token_ids.dtype}; expected a flat array of integers"
            )
        if token_ids.dtype != np.uint32 and token_ids.size and not 0 <= token_ids.min() <= token_ids.max() < 1 << 32:
            raise InvalidTokensError(
                f"token ids go from {token_ids.min()} to {token_ids.max()}; none is below 0 or above {(1 << 32) - 1}"
            )
        data = self.bytes_of(token_ids)
        if data is None:
            return str(self._tokenizer.decode(token_ids.tolist(), skip_special_tokens=True))
        return data.decode(errors="replace")

    def _pieces(self, text: str) -> list[str]:
        """A long text in pieces at line ends, where its tokens end too: they are encoded in parallel, and each in a
        size that stays in the cache."""
        if not self._breaks_at_lines:
            return [text]
        pieces, start = [], 0
        while match := LINE_END.search(text, start + PIECE_CHARACTERS):
            pieces.append(text[start : match.end()])
            start = match.end()
        return [*pieces, text[start:]]

    def _from_byte_lengths(self, text: str, data: bytes, token_ids: npt.NDArray[np.uint32]) -> Encoded:
        """Tokens cover the text byte for byte, so their lengths say where they begin (30 times faster than asking the
        library for offsets). Where a normalizer changed the text the sums differ."""
        assert self._num_bytes is not None
        ends = np.cumsum(self._num_bytes[token_ids])
        num_bytes = int(ends[-1]) if len(ends) else 0
        if num_bytes != len(data):
            return self._spelled_out(text) if self._spelled and self._spelled.search(text) else self._with_offsets(text)
        starts = ends - self._num_bytes[token_ids]
        if len(data) != len(text):
            is_first_byte = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80
            starts = (np.cumsum(is_first_byte) - 1)[starts]
        return Encoded(token_ids=token_ids, char_starts=starts)

    def _with_offsets(self, text: str) -> Encoded:
        if self._spelled and self._spelled.search(text):
            return self._spelled_out(text)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        token_ids = np.asarray(encoding.ids, dtype=np.uint32)
        char_starts = np.fromiter((start for start, _ in encoding.offsets), dtype=np.int64, count=len(token_ids))
        return Encoded(token_ids=token_ids, char_starts=char_starts)

    def _spelled_out(self, text: str) -> Encoded:
        """What the vocabulary would take for a space or a byte, in the bytes of its characters; the text between as
        always."""
        assert self._spelled is not None
        encoded, start = [], 0
        for match in self._spelled.finditer(text):
            encoded.append(self._part(text[start : match.start()], start))
            ids = [self._tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in match.group().encode()]
            encoded.append((np.array(ids, dtype=np.uint32), np.full(len(ids), match.start(), dtype=np.int64)))
            start = match.end()
        encoded.append(self._part(text[start:], start))
        return Encoded(
            token_ids=np.concatenate([ids for ids, _ in encoded]),
            char_starts=np.concatenate([starts for _, starts in encoded]),
        )

    def _part(self, text: str, start: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        found = self.encode(text)
        return found.token_ids, found.char_starts + start


def _utf8(text: str) -> bytes:
    return valid_text("text", text).encode()


def _byte_lengths(plain: dict[str, Any], table: list[bytes] | None) -> npt.NDArray[np.int64] | None:
    """Bytes of text that each id stands for, or None where a text does not come out as it went in."""
    if table is None or not all(map(_keeps_text, parts(plain.get("normalizer")))):
        return None
    return np.fromiter(map(len, table), dtype=np.int64, count=len(table))


def _keeps_text(normalizer: dict[str, Any]) -> bool:
    """Whether the text comes out as it went in, or else of another length. Canonical composition leaves most text
    alone, and where it does not the byte sums tell."""
    if normalizer["type"] == "Replace":
        return bool(normalizer["pattern"] == {"String": " "} and normalizer["content"] == SPACE)
    return bool(normalizer["type"] == "NFC")


def _spelled(plain: dict[str, Any]) -> re.Pattern[str] | None:
    """What has to be written in byte pieces, where there are any, to come out as it went in."""
    if not has_byte_pieces(plain):
        return None
    # these find a whole piece in the text, however it is made
    is_looked_up = plain["model"]["type"] != "BPE" or plain["model"].get("ignore_merges")
    return SPACE_OR_BYTE if is_looked_up else SPACE_SIGN


def _breaks_at_lines(tokenizer: Tokenizer, table: list[bytes] | None) -> bool:
    """Whether a token always ends at ``LINE_END``: none in the vocabulary runs over one, and trying shows that what
    follows a line end does not change what comes before it."""

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    if table is None or any(map(OVER_LINE_END.search, table)):
        return False
    return all(
        ids(f"{before}\n{after}") == ids(f"{before}\n") + ids(after) for before in LINE_PROBES for after in LINE_PROBES
    )
