"""A SentencePiece vocabulary (``tokenizer.model``) as the content of a ``tokenizer.json``, for folders without one.

The file is one protobuf message; of it are read the pieces with their scores and types, and the few settings that
decide the ids. Its format: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacontext.bases.model_files import read_json
from megacontext.bases.tokenizer_spec import SPACE
from megacontext.errors import BaseModelError

__all__ = ["sentencepiece_spec"]

# Types of pieces; others (unused ones) are never given.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
UNIGRAM, BPE = 1, 2
WIRE_WIDTHS = {1: 8, 5: 4}


@dataclass(frozen=True)
class _Piece:
    text: str
    score: float
    kind: int


def sentencepiece_spec(path: Path) -> dict[str, Any]:
    """The content of a ``tokenizer.json`` that gives the ids of a SentencePiece file (BPE or unigram).

    ``added_tokens.json`` and ``added_tokens_decoder`` of ``tokenizer_config.json`` beside it are added.
    Raises BaseModelError where it is no such file, or of a kind that the tokenizers library does not have.
    """
    try:
        message = _fields(path.read_bytes())
        pieces = [_piece(content) for content in message.get(1, [])]
        trainer, normalizer = (_fields(message.get(number, [b""])[-1]) for number in (2, 3))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        raise BaseModelError(f"{path}: no readable SentencePiece file ({error}); copy the model again") from error
    kind = _number(trainer, 3, UNIGRAM)
    if not pieces or kind not in (UNIGRAM, BPE) or _number(trainer, 24, 0):
        raise BaseModelError(
            f"{path}: no SentencePiece BPE or unigram model with spaces in front of words; save a tokenizer.json"
        )
    if len({_name(place, piece) for place, piece in enumerate(pieces)}) < len(pieces):
        raise BaseModelError(f"{path}: lists a piece twice; copy the model again")
    tokens = _added(pieces, path.parent)
    spec: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": tokens,
        "normalizer": _sequence("normalizers", _normalizers(normalizer)),
        "pre_tokenizer": None,
        "decoder": _sequence("decoders", _decoders(has_prefix=bool(_number(normalizer, 3, 1)))),
        "post_processor": _post_processor(pieces, _signed(_number(trainer, 41, 1))),
        "model": _bpe(pieces) if kind == BPE else _unigram(pieces, _number(trainer, 40, 0)),
    }
    return spec


# --- the parts of a tokenizer.json ---


def _name(place: int, piece: _Piece) -> str:
    """As the vocabulary lists it. What a user defined stands as it is in a text; what is unused holds a space, which
    no text has any more when pieces are looked up."""
    if piece.kind == USER_DEFINED:
        return piece.text.replace(SPACE, " ")
    return piece.text if piece.kind in (NORMAL, UNKNOWN, CONTROL, BYTE) else f"unused {place}"


def _bpe(pieces: list[_Piece]) -> dict[str, Any]:
    """Pieces in order of their scores are merges in order: each is made of any two that are pieces, too."""
    vocabulary = {_name(place, piece): place for place, piece in enumerate(pieces)}
    joined = [(piece, place) for place, piece in enumerate(pieces) if piece.kind == NORMAL and len(piece.text) > 1]
    merges = []
    for piece, _ in sorted(joined, key=lambda found: (-found[0].score, found[1])):
        splits = [(piece.text[:cut], piece.text[cut:]) for cut in range(1, len(piece.text))]
        known = [split for split in splits if split[0] in vocabulary and split[1] in vocabulary]
        merges += sorted(known, key=lambda split: (vocabulary[split[0]], vocabulary[split[1]]))
    return {
        "type": "BPE",
        "unk_token": next((piece.text for piece in pieces if piece.kind == UNKNOWN), None),
        "fuse_unk": True,
        "byte_fallback": any(piece.kind == BYTE for piece in pieces),
        "vocab": vocabulary,
        "merges": [list(merge) for merge in merges],
    }


def _unigram(pieces: list[_Piece], unknown: int) -> dict[str, Any]:
    return {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": [[_name(place, piece), piece.score] for place, piece in enumerate(pieces)],
        "byte_fallback": any(piece.kind == BYTE for piece in pieces),
    }


def _added(pieces: list[_Piece], folder: Path) -> list[dict[str, Any]]:
    """Control tokens and what a user defined, then what the files beside it add."""
    tokens = {
        place: _token(place, _name(place, piece), is_special=piece.kind != USER_DEFINED)
        for place, piece in enumerate(pieces)
        if piece.kind in (UNKNOWN, CONTROL, USER_DEFINED)
    }
    for content, place in read_json(folder / "added_tokens.json").items():
        tokens[int(place)] = _token(int(place), content, is_special=False)
    described = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
    for place, told in described.items():
        flags = {name: bool(told.get(name)) for name in ("special", "lstrip", "rstrip", "single_word")}
        content = tokens[int(place)]["content"] if int(place) in tokens else str(told.get("content"))
        tokens[int(place)] = {**_token(int(place), content, is_special=False), **flags}
    beyond = [place for place in sorted(tokens) if place >= len(pieces)]
    if beyond != [*range(len(pieces), len(pieces) + len(beyond))]:
        raise BaseModelError(
            f"{folder}: its added tokens have ids {beyond[:3]} ..., but its vocabulary ends at {len(pieces) - 1}; "
            "save a tokenizer.json"
        )
    return [tokens[place] for place in sorted(tokens)]


def _token(place: int, content: str, *, is_special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": place, "content": content, "special": is_special, **flags}


def _normalizers(settings: dict[int, list[Any]]) -> Iterator[dict[str, Any]]:
    charsmap = settings.get(2, [b""])[-1]
    if charsmap:
        yield {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    if _number(settings, 4, 1):  # extra white space
        yield {"type": "Strip", "strip_left": True, "strip_right": True}
        yield {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    if _number(settings, 3, 1):  # a space in front
        yield {"type": "Prepend", "prepend": SPACE}
    yield {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def _decoders(*, has_prefix: bool) -> Iterator[dict[str, Any]]:
    yield {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    yield {"type": "ByteFallback"}
    yield {"type": "Fuse"}
    if has_prefix:
        yield {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def _post_processor(pieces: list[_Piece], bos: int) -> dict[str, Any] | None:
    """Models of such files are trained with BOS; ``add_bos_token`` of a tokenizer_config.json may say otherwise."""
    if not 0 <= bos < len(pieces) or pieces[bos].kind != CONTROL:
        return None
    content = pieces[bos].text
    single = [{"SpecialToken": {"id": content, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    named = {content: {"id": content, "ids": [bos], "tokens": [content]}}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": named}


def _sequence(key: str, steps: Iterator[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "Sequence", key: list(steps)}


# --- protobuf ---


def _piece(content: bytes) -> _Piece:
    fields = _fields(content)
    text = fields[1][-1].decode()
    score = struct.unpack("<f", fields[2][-1])[0] if 2 in fields else 0.0
    return _Piece(text, score, _number(fields, 3, NORMAL))


def _fields(data: bytes) -> dict[int, list[Any]]:
    """Values of a message by field number: whole numbers, or bytes; ValueError or IndexError where it is cut."""
    found: dict[int, list[Any]] = {}
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        wire = tag & 7
        value: int | bytes
        if wire == 0:
            value, place = _varint(data, place)
        elif wire == 2 or wire in WIRE_WIDTHS:
            width, place = _varint(data, place) if wire == 2 else (WIRE_WIDTHS[wire], place)
            value = data[place : place + width]
            place += width
        else:
            raise ValueError(f"wire type {wire} at byte {place}")
        if place > len(data):
            raise ValueError("it is cut short")
        found.setdefault(tag >> 3, []).append(value)
    return found


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError(f"a number without end at byte {place}")


def _number(fields: dict[int, list[Any]], number: int, default: int) -> int:
    value = fields.get(number, [default])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {number} holds no number")
    return value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
