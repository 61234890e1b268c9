"""Cut windows: the shape that a working context has, made without a memory.

A cut goes through a text of thousands of tokens: its first block raw, some interior blocks raw, its end raw, and of
every span in between one salient token. Positions are simply 0..W-1.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from megacontext.training.recall import TRAINING, Asking, Fact, draw_facts
from megacontext.training.windows import ANSWER_WEIGHT, Ids, Strip, TextSource, Window

__all__ = ["cut_row"]

BLOCK = 32
SPAN = 1024
MOST_COARSE_SPANS = 48
FEWEST_LONE = 40
LONGEST_TEXT = 1024 * BLOCK + MOST_COARSE_SPANS * SPAN


@dataclass
class _Reader:
    """Walks forward through one long stretch of text."""

    source: TextSource
    domain: str
    text: npt.NDArray[np.uint16]
    random: Random
    at: int = 0
    coarse_left: int = MOST_COARSE_SPANS

    def take(self, count: int) -> Ids:
        """The next `count` tokens (from the start again if the text runs out)."""
        if self.at + count + 1 >= len(self.text):
            self.at = self.random.randrange(max(1, len(self.text) // 2))
        ids: Ids = self.text[self.at : self.at + count].tolist()
        self.at += count
        return ids

    def successor(self) -> int:
        """The token that truly follows what was taken last."""
        return int(self.text[self.at])

    def lone(self, count: int) -> Ids:
        """One salient token of each of `count` spans of 32 (at times 1,024) tokens: a rare one, with some chance."""
        ids: Ids = []
        while len(ids) < count:
            coarse = self.coarse_left > 0 and self.random.random() < 0.25
            size = SPAN if coarse else BLOCK
            group = min(
                count - len(ids), self.random.randint(1, 16 if coarse else 64), self.coarse_left if coarse else count
            )
            self.coarse_left -= group if coarse else 0
            for _ in range(group):
                span = np.array(self.take(size))
                noise = self.random.choice((0.0, 1.0, 3.0))
                keys = self.source.rarity_V[span]
                keys = keys + noise * np.random.default_rng(self.random.getrandbits(32)).random(size) if noise else keys
                ids.append(int(span[int(keys.argmax())]))
        return ids


def cut_row(
    source: TextSource,
    random: Random,
    length: int,
    asking: Asking = TRAINING,
    *,
    recall: bool = True,
    num_lone: int | None = None,
) -> Window:
    """A cut through a long text; with `recall`, the asked facts stand in opened blocks.

    Args:
        source: real text.
        random: the row is a function of its state.
        length: entries W of the window.
        asking: which facts are stated and how they are asked for.
        recall: whether facts are stated and asked for at all.
        num_lone: single-token entries; drawn if not given, fewer where they do not fit.
    """
    domain = source.domain(random)
    reader = _Reader(source, domain, source.stretch(random, domain, LONGEST_TEXT), random)
    facts = draw_facts(random, random.randint(1, max(2, length // 200)), asking, distractors=0.4) if recall else []
    closing = [
        (source.question(random, fact, asking), fact)
        for fact in random.sample(facts, min(len(facts), random.randint(1, 5)))
    ]
    question_tokens = sum(len(ask) + len(answer) for (ask, answer, _), _ in closing)
    tail = max(random.randint(min(128, length // 4), min(512, length // 2)), question_tokens + 16)
    runs, gaps = _lay_out(random, length - BLOCK - tail, facts, num_lone)
    strip = Strip()
    strip.add_text(reader.take(BLOCK))
    strip.end_text(reader.successor())
    for gap, (size, fact) in zip(gaps, runs, strict=False):
        strip.add_lone(reader.lone(gap))
        _add_run(strip, reader, size, fact, joined=gap == 0)
    strip.add_lone(reader.lone(gaps[-1]))
    strip.add_text(reader.take(tail - question_tokens), joined=gaps[-1] == 0)
    if not closing:
        strip.end_text(reader.successor())
    for question, fact in closing:
        strip.add_question(*question, fact, ANSWER_WEIGHT)
    return strip.window(length)


def _lay_out(
    random: Random, room: int, facts: list[Fact], num_lone: int | None
) -> tuple[list[tuple[int, Fact | None]], list[int]]:
    """Divide `room` entries into opened runs (tokens, the fact in them), shuffled, and lone entries in each gap."""
    runs: list[tuple[int, Fact | None]] = [(random.randint(2, 3) * BLOCK, fact) for fact in facts]
    room -= sum(size for size, _ in runs)
    fewest = min(FEWEST_LONE, room)
    lone = random.randint(fewest, max(fewest, room)) if num_lone is None else min(num_lone, room)
    spare = room - max(0, lone)
    while spare >= BLOCK:
        size = min(random.randint(1, 4) * BLOCK, spare // BLOCK * BLOCK)
        runs.append((size, None))
        spare -= size
        room -= size
    random.shuffle(runs)
    return runs, _split(random, max(0, room), len(runs) + 1)


def _split(random: Random, total: int, parts: int) -> list[int]:
    """Split a count into random parts, some of them zero."""
    edges = sorted(random.randint(0, total) for _ in range(parts - 1))
    return [stop - start for start, stop in zip([0, *edges], [*edges, total], strict=True)]


def _add_run(strip: Strip, reader: _Reader, size: int, fact: Fact | None, *, joined: bool) -> None:
    """Add opened blocks, `size` tokens in all; a fact stands somewhere in them, across block borders too."""
    if fact is None:
        strip.add_text(reader.take(size), joined=joined)
        strip.end_text(reader.successor())
        return
    source, random = reader.source, reader.random
    text = np.array(reader.take(size), np.uint16)
    taken = reader.at
    new_line = reader.domain == "code" or random.random() < 0.3
    statement = source.statement(random, fact, reader.domain, new_line=new_line)[: size - 2]
    before = random.randint(1, size - len(statement))
    openings = source.openings(text, reader.domain)
    openings = openings[openings <= size - len(statement)]
    if len(openings):
        before = int(openings[np.abs(openings - before).argmin()])
    after = size - len(statement) - before
    strip.add_text(text[:before].tolist(), joined=joined)
    strip.add_fact(statement, fact)
    reader.at = taken - size + before
    strip.add_text(reader.take(after))
    strip.end_text(reader.successor())
