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

from megacontext.errors import BaseModelError, InvalidTokensError, InvalidValueError
from megacontext.ports.text import Encoded
from megacontext.values import shown
from megacontext.values import text as valid_text

__all__ = ["TokenizersCodec"]

# What decides which ids a text gets. Decoders, chat templates, truncation and padding do not.
ID_PARTS = ("normalizer", "pre_tokenizer", "model", "added_tokens")
# An added token that is not flagged special but is markup all the same, such as ``<tool_call>`` or ``[INST]``.
MARKUP = re.compile(r"<[^\s<>]+>|\[/?[A-Z_0-9]+\]")

PIECE_CHARACTERS = 1 << 14
# A line end between two characters that are not white space.
LINE_END = re.compile(r"\S\n(?=\S)")
# The same in the letters that byte-level vocabularies write for bytes: newline, then neither white space nor newline.
OVER_LINE_END = re.compile("\u010a[^\u010a\u0120\u0109\u010d]")
# One character of each class that pre-tokenizers tell apart, on either side of a line end.
LINE_PROBES = ["a", "Z", "7", "日", ".", ")", "_", "'s", "#", "é", "\u0301", "🧑"]


class TokenizersCodec:
    """A ``tokenizer.json`` as a ``TextCodec``.

    spec: the parsed content of a ``tokenizer.json``.
    Raises BaseModelError when the library cannot read it.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        identity = json.dumps({part: spec.get(part) for part in ID_PARTS}, sort_keys=True, ensure_ascii=True)
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()
        spec = {**spec, "post_processor": None, "truncation": None, "padding": None}
        spec["added_tokens"] = [
            {**token, "special": token["special"] or bool(MARKUP.fullmatch(token["content"]))}
            for token in spec.get("added_tokens") or []
        ]
        try:
            self._tokenizer = Tokenizer.from_str(json.dumps(spec))
        except Exception as error:
            raise BaseModelError(f"tokenizer.json cannot be read: {error}; save it again with tokenizers") from error
        self._tokenizer.encode_special_tokens = True
        controls = {token["content"]: token["id"] for token in spec["added_tokens"] if token["special"]}
        self.vocab_size: int = 1 + max([*self._tokenizer.get_vocab().values(), *controls.values()], default=-1)
        self._is_control = np.zeros(self.vocab_size, dtype=bool)
        self._is_control[list(controls.values())] = True
        self._control_text = re.compile("|".join(re.escape(text) for text in sorted(controls, key=len, reverse=True)))
        self._num_bytes = _byte_lengths(spec, self._tokenizer, self.vocab_size)
        self._breaks_at_lines = self._num_bytes is not None and _breaks_at_lines(self._tokenizer)

    @classmethod
    def from_file(cls, path: Path) -> TokenizersCodec:
        """Read a ``tokenizer.json``; BaseModelError when it is missing or broken."""
        try:
            spec = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BaseModelError(
                f"{path}: not a readable tokenizer.json ({error}); save the tokenizer again"
            ) from error
        return cls(spec)

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
        for text, data, parts in zip(texts, bytes_of, pieces, strict=True):
            ids = [np.asarray(next(encodings).ids, dtype=np.uint32) for _ in parts]
            encoded.append(self._from_byte_lengths(text, data, np.concatenate(ids)))
        return encoded

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
        return str(self._tokenizer.decode(token_ids.tolist(), skip_special_tokens=True))

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
        """Byte-level tokens cover the text byte for byte, so their lengths say where they begin (30 times faster than
        asking the library for offsets). Where a normalizer or prefix changed the text the sums differ."""
        assert self._num_bytes is not None
        ends = np.cumsum(self._num_bytes[token_ids])
        num_bytes = int(ends[-1]) if len(ends) else 0
        if num_bytes != len(data) or self._is_control[token_ids].any():
            return self._with_offsets(text)
        starts = ends - self._num_bytes[token_ids]
        if len(data) != len(text):
            is_first_byte = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80
            starts = (np.cumsum(is_first_byte) - 1)[starts]
        return Encoded(token_ids=token_ids, char_starts=starts)

    def _with_offsets(self, text: str) -> Encoded:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        token_ids = np.asarray(encoding.ids, dtype=np.uint32)
        if self._is_control[token_ids].any():
            return self._without_controls(text)
        char_starts = np.fromiter((start for start, _ in encoding.offsets), dtype=np.int64, count=len(token_ids))
        return Encoded(token_ids=token_ids, char_starts=char_starts)

    def _without_controls(self, text: str) -> Encoded:
        """Some vocabularies hold their control tokens as whole words: cut each one in the text after its first
        character and encode the parts by themselves."""
        cuts = [0, *(match.start() + 1 for match in self._control_text.finditer(text)), len(text)]
        parts = []
        for start, stop in itertools.pairwise(cuts):
            encoding = self._tokenizer.encode(text[start:stop], add_special_tokens=False)
            offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)[:, 0] + start
            parts.append((np.asarray(encoding.ids, dtype=np.uint32), offsets))
        token_ids = np.concatenate([ids for ids, _ in parts])
        keep = ~self._is_control[token_ids]
        return Encoded(token_ids=token_ids[keep], char_starts=np.concatenate([starts for _, starts in parts])[keep])


def _utf8(text: str) -> bytes:
    return valid_text("text", text).encode()


def _byte_lengths(spec: dict[str, Any], tokenizer: Tokenizer, vocab_size: int) -> npt.NDArray[np.int64] | None:
    """Bytes of text that each id stands for, or None where the vocabulary is not byte-level."""
    if not _is_byte_level(spec.get("pre_tokenizer")) or _changes_text(spec.get("normalizer")):
        return None
    lengths = np.zeros(vocab_size, dtype=np.int64)
    for token, token_id in tokenizer.get_vocab(with_added_tokens=False).items():
        lengths[token_id] = len(token)  # one character per byte
    for added in spec["added_tokens"]:
        lengths[added["id"]] = len(added["content"].encode())
    return lengths


def _breaks_at_lines(tokenizer: Tokenizer) -> bool:
    """Whether a token always ends at ``LINE_END``: none in the vocabulary runs over one, and trying shows that what
    follows a line end does not change what comes before it."""

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    if any(OVER_LINE_END.search(token) for token in tokenizer.get_vocab(with_added_tokens=True)):
        return False
    return all(
        ids(f"{before}\n{after}") == ids(f"{before}\n") + ids(after) for before in LINE_PROBES for after in LINE_PROBES
    )


def _is_byte_level(pre_tokenizer: dict[str, Any] | None) -> bool:
    if pre_tokenizer is None:
        return False
    parts = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return any(part["type"] == "ByteLevel" and not part.get("add_prefix_space") for part in parts)


def _changes_text(normalizer: dict[str, Any] | None) -> bool:
    """Canonical composition leaves most text alone, and where it does not the byte sums tell."""
    return normalizer is not None and normalizer["type"] != "NFC"
