"""Real text of a given length, and sentences put into it at chosen depths."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Sequence
from random import Random

from megacontext.errors import InvalidValueError
from megacontext.ports.text import TextCodec

__all__ = ["ROOM_TOKENS", "SENTENCE_GAP", "hide", "sentences_of", "stretch", "stretch_texts"]

ROOM_TOKENS = 96
"""A length counts history, question and answer, as full context would need them; so much of it is no history."""

SENTENCE_GAP = re.compile(r"(?<!\bSt)(?<!\bMr)(?<!\bDr)(?<!\bMrs)[.!?][”’\"']? (?=[“‘A-Z])")
PARAGRAPH = re.compile(r"\n\n+")
MOST_CHARS_PER_TOKEN = 8
SAMPLE_CHARS = 20_000
FEWEST_PLACES = 8


def stretch(random: Random, codec: TextCodec, texts: Sequence[str], num_tokens: int) -> str:
    """At most ``num_tokens`` tokens of text (few less), from a random paragraph on; where a text ends the next begins.

    Raises InvalidValueError if all texts together are empty, or no token is asked for.
    """
    if num_tokens < 1:
        raise InvalidValueError(f"{num_tokens} tokens of text leave no room for a history; ask for a greater length")
    whole, encoded = _from_random_paragraph(random, codec, texts, num_tokens)
    return whole[: encoded[num_tokens]] if len(encoded) > num_tokens else whole


def stretch_texts(
    random: Random, codec: TextCodec, texts: Sequence[str], num_tokens: int, num_next: int
) -> tuple[str, str]:
    """``num_tokens`` tokens of text, and the ``num_next`` that follow.

    Of one text, all places alike, where those that are long enough have room for ``FEWEST_PLACES`` stretches beside
    each other; else of all of them one after another in a circle, or the same few would be drawn over and over.
    Raises InvalidValueError if there is less text than that.
    """
    length = num_tokens + num_next
    chars = _chars_for(codec, texts, length)
    room = [max(0, len(text) - chars) for text in texts]
    if sum(room) >= FEWEST_PLACES * chars:
        (text,) = random.choices(texts, room)
    else:
        first = random.randrange(len(texts))
        text = "\n\n".join([*texts[first:], *texts[:first]])
        if len(text) <= chars:
            raise InvalidValueError(
                f"{length} tokens of text are wanted, some {chars} characters, and all texts together have "
                f"{len(text)}; ask for a smaller length, or give a data folder that holds more"
            )
        text += "\n\n" + text[:chars]
    start = _paragraph_start(random, text, len(text) - chars)
    piece = text[start : start + chars]
    edges = codec.encode(piece).char_starts
    if len(edges) < length:
        raise InvalidValueError(f"{length} tokens of text are not to be had; ask for at most {len(edges)}")
    cut, end = int(edges[num_tokens]), int(edges[length]) if len(edges) > length else chars
    return piece[:cut], piece[cut:end]


def sentences_of(text: str) -> list[str]:
    """A text cut at the ends of its sentences; joined they are the text."""
    edges = [0, *(gap.end() for gap in SENTENCE_GAP.finditer(text)), len(text)]
    return [text[low:high] for low, high in itertools.pairwise(edges) if high > low]


def hide(text: str, statements: Sequence[str], depths: Sequence[float]) -> str:
    """The text with each statement between two sentences at its depth, 0 (before everything) to 1 (at the end).

    >>> hide("A b c. D e f. G.", ["X."], [0.4])
    'A b c. X. D e f. G.'
    """
    gaps = [0, *(gap.end() for gap in SENTENCE_GAP.finditer(text)), len(text)]
    placed = []
    for number, (statement, depth) in enumerate(zip(statements, depths, strict=True)):
        target = depth * len(text)
        after = min(bisect_left(gaps, target), len(gaps) - 1)
        near = min(gaps[max(0, after - 1) : after + 1], key=lambda gap: abs(gap - target))
        placed.append((near, number, statement))
    parts: list[str] = []
    done = 0
    for gap, _, statement in sorted(placed):
        parts += [text[done:gap], f" {statement}" if gap == len(text) else f"{statement} "]
        done = gap
    return "".join([*parts, text[done:]])


def _from_random_paragraph(
    random: Random, codec: TextCodec, texts: Sequence[str], num_tokens: int
) -> tuple[str, list[int]]:
    chars = _chars_for(codec, texts, num_tokens)
    first = random.randrange(len(texts))
    start = _paragraph_start(random, texts[first], len(texts[first]))
    parts, found, number = [texts[first][start:]], len(texts[first]) - start, first
    while found < chars:
        number = (number + 1) % len(texts)
        parts.append(texts[number])
        found += len(texts[number])
    whole = "\n\n".join(parts)[:chars]
    return whole, codec.encode(whole).char_starts.tolist()


def _paragraph_start(random: Random, text: str, limit: int) -> int:
    """The start of a random paragraph of the first ``limit`` characters."""
    match = PARAGRAPH.search(text, random.randrange(max(1, limit)))
    return match.end() if match and match.end() < limit else 0


def _chars_for(codec: TextCodec, texts: Sequence[str], num_tokens: int) -> int:
    """Characters that surely hold so many tokens, without encoding much more than them."""
    if not texts or not any(texts):
        raise InvalidValueError("there is no text to make a history of; give a data folder that holds some")
    samples = [text[len(text) // 2 :][:SAMPLE_CHARS] for text in texts if text]
    rate = max(len(sample) / max(1, len(codec.encode(sample).token_ids)) for sample in samples)
    return int(num_tokens * min(1.15 * rate, MOST_CHARS_PER_TOKEN)) + 64
