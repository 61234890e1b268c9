"""A ``tokenizer.json`` without its habits, as data: nothing here runs a tokenizer.

``plain_spec`` takes out what adds to a text (BOS and EOS, a space in front) and what text could forge: each control
token gets a name that nobody can write, because it is drawn when the file is read. So no text yields its id, whatever
a normalizer makes of it and whichever model looks it up, and every other id stays what it was.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["SPACE", "TokenizerHabits", "has_byte_pieces", "is_control", "parts", "plain_spec"]

SPACE = "\u2581"  # what SentencePiece writes for a space
# An added token that is not flagged special but is markup all the same, such as ``<tool_call>`` or ``[INST]``.
MARKUP = re.compile(r"<[^\s<>]+>|\[/?[A-Z_0-9]+\]")
# Elements of HTML that some vocabularies hold as added tokens (Gemma): they are text, and no model is steered by them.
HTML = re.compile(
    r"</?(a|b|i|u|em|h[1-6]|p|br|hr|ol|ul|li|td|th|tr|sub|sup|code|pre|div|span|table|tbody|thead|tfoot|strong|caption"
    r"|blockquote)>"
)
MOST_LEFT_OUT = 1 << 16  # ids that no token has
# Parts that are lists of parts, and the key of the list.
SEQUENCES = ("normalizers", "pretokenizers", "decoders", "processors")


def parts(component: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The single steps of a normalizer, pre-tokenizer, decoder or post-processor, in order."""
    if component is None:
        return
    nested = next((component[key] for key in SEQUENCES if key in component), None)
    if nested is None:
        yield component
        return
    for part in nested:
        yield from parts(part)


def is_control(token: dict[str, Any]) -> bool:
    """Whether an entry of ``added_tokens`` steers the model instead of standing for text."""
    content = token["content"]
    return bool(token["special"] or (MARKUP.fullmatch(content) and not HTML.fullmatch(content)))


def has_byte_pieces(spec: dict[str, Any]) -> bool:
    """Whether characters outside the vocabulary are written as bytes, ``<0x00>`` to ``<0xFF>``."""
    model = spec["model"]
    vocabulary = model.get("vocab") or {}
    pieces = set(vocabulary) if isinstance(vocabulary, dict) else {piece for piece, _ in vocabulary}
    return bool(model.get("byte_fallback")) and all(f"<0x{byte:02X}>" in pieces for byte in range(256))


@dataclass(frozen=True, kw_only=True)
class TokenizerHabits:
    """What a ``tokenizer.json`` does on its own.

    model: BPE, Unigram, WordPiece or WordLevel; is_byte_level: whether its letters are bytes; has_byte_pieces: whether
    it writes bytes for what its vocabulary lacks; normalizers: what changes a text first, by type; puts_space_first:
    whether a text gets a space in front; writes_spaces: whether U+2581 stands for a space; first_token, last_token:
    what it puts around a text; num_added: tokens beside the vocabulary proper, control tokens among them.
    """

    model: str
    is_byte_level: bool
    has_byte_pieces: bool
    normalizers: tuple[str, ...]
    puts_space_first: bool
    writes_spaces: bool
    first_token: str | None
    last_token: str | None
    num_added: int

    @classmethod
    def of(cls, spec: dict[str, Any]) -> TokenizerHabits:
        """Read off the content of a ``tokenizer.json``; errors as in ``plain_spec``."""
        before = [*parts(spec.get("normalizer")), *parts(spec.get("pre_tokenizer"))]
        first, last = _added_around(spec.get("post_processor"))
        return cls(
            model=spec["model"].get("type", "BPE"),
            is_byte_level=any(part["type"] == "ByteLevel" for part in before),
            has_byte_pieces=has_byte_pieces(spec),
            normalizers=tuple(part["type"] for part in parts(spec.get("normalizer")) if not _is_space_sign(part)),
            puts_space_first=any(map(_puts_space_first, before)),
            writes_spaces=any(part["type"] == "Metaspace" or _is_space_sign(part) for part in before),
            first_token=first,
            last_token=last,
            num_added=len(spec.get("added_tokens") or []),
        )


def _added_around(post_processor: dict[str, Any] | None) -> tuple[str | None, str | None]:
    """The tokens that a post-processor puts before and behind a single text."""
    first = last = None
    for part in parts(post_processor):
        if part["type"] == "TemplateProcessing":
            names = [step.get("SpecialToken", {}).get("id") for step in part["single"]]
            first, last = names[0], names[-1]
        elif part["type"] in ("BertProcessing", "RobertaProcessing"):
            first, last = part["cls"][0], part["sep"][0]
    return first, last


def _puts_space_first(part: dict[str, Any]) -> bool:
    if part["type"] == "Metaspace":
        return bool(part.get("prepend_scheme", "always" if part.get("add_prefix_space", True) else "never") != "never")
    return part["type"] == "Prepend" or bool(part["type"] == "ByteLevel" and part.get("add_prefix_space"))


def _is_space_sign(part: dict[str, Any]) -> bool:
    """Whether a normalizer only writes spaces as SentencePiece does."""
    return part["type"] == "Prepend" or bool(
        part["type"] == "Replace" and part["pattern"] == {"String": " "} and part["content"] == SPACE
    )


def plain_spec(spec: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """One that adds nothing to a text and gives no control token for any, and the names that those got in it.
    KeyError, TypeError and the like where the file has not the shape of a ``tokenizer.json``."""
    plain = {**spec, "post_processor": None, "truncation": None, "padding": None, "model": dict(spec["model"])}
    plain["added_tokens"] = [dict(token) for token in spec.get("added_tokens") or []]
    _check_reach(plain["model"], plain["added_tokens"])
    _list_added(plain["model"], plain["added_tokens"])
    for key in ("normalizer", "pre_tokenizer", "decoder"):
        plain[key] = _without_habits(plain.get(key))
    controls = [token["content"] for token in plain["added_tokens"] if is_control(token)]
    names = {content: _unforgeable(place) for place, content in enumerate(controls)}
    _hide(plain, names)
    return plain, names


def _unforgeable(place: int) -> str:
    return f"control {place} {secrets.token_hex(16)}"


def _list_added(model: dict[str, Any], tokens: list[dict[str, Any]]) -> None:
    """Put added tokens into the vocabulary, with their ids: the library counts those up that are not there, and would
    give one behind a gap another id than the weights have for it."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        used = set(vocabulary.values())
        absent = {token["content"]: token["id"] for token in tokens if token["id"] not in used}
        model["vocab"] = {**absent, **vocabulary}
    elif vocabulary is not None:
        absent = {token["id"]: token["content"] for token in tokens if token["id"] >= len(vocabulary)}
        last = max(absent, default=-1)
        more = [[absent.get(place, _unforgeable(place)), 0.0] for place in range(len(vocabulary), last + 1)]
        model["vocab"] = [*vocabulary, *more]


def _check_reach(model: dict[str, Any], tokens: list[dict[str, Any]]) -> None:
    """ValueError for an id so far behind the others that a table of all would be mostly empty."""
    reach = len(model.get("vocab") or []) + len(tokens) + MOST_LEFT_OUT
    for token in tokens:
        if not 0 <= int(token["id"]) < reach:
            raise ValueError(f"{token['content']} has id {token['id']}, far from the others")


def _without_habits(component: dict[str, Any] | None) -> dict[str, Any] | None:
    """Steps that put a space in front of a text, or take one away, left out or told not to."""
    if component is None:
        return None
    key = next((key for key in SEQUENCES if key in component), None)
    if key is not None:
        kept = [part for part in map(_without_habits, component[key]) if part is not None]
        return {**component, key: kept} if kept else None
    kind = component["type"]
    if kind == "Prepend" or (kind == "Strip" and component.get("content") == " "):
        return None
    if kind == "Metaspace":
        kept_keys = {name: value for name, value in component.items() if name != "add_prefix_space"}
        return {**kept_keys, "prepend_scheme": "never"}
    if kind == "ByteLevel":
        return {**component, "add_prefix_space": False}
    return {**component, "cleanup": False} if kind == "WordPiece" else component


def _hide(spec: dict[str, Any], names: dict[str, str]) -> None:
    """Rename control tokens wherever they stand, and leave no way to make one of smaller pieces."""
    for token in spec["added_tokens"]:
        # a token that swallows the white space beside it would lose text
        token.update(lstrip=False, rstrip=False)
        if token["content"] in names:
            token.update(content=names[token["content"]], special=True, normalized=False)
    model = spec["model"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): token_id for piece, token_id in vocabulary.items()}
    elif vocabulary is not None:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if model.get("merges"):
        model["merges"] = [merge for merge in model["merges"] if names.keys().isdisjoint(_pieces(merge))]


def _pieces(merge: str | list[str]) -> tuple[str, str, str]:
    """What a merge joins, and what it makes."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right, left + right
