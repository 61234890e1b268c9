"""Rows by kind: what a training window is filled with.

Every kind is one function of a source of text, a random state and a length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidValueError
from megacontext.training.puzzles import draw_puzzles
from megacontext.training.recall import TRAINING, Asking, Fact, draw_facts
from megacontext.training.windows import ANSWER_WEIGHT, Ids, Strip, TextSource, Window
from megacontext.training.wordings import in_unseen_words

__all__ = [
    "ALIGNED_BLOCK",
    "SPREAD_BLOCKS",
    "aligned_row",
    "dense_puzzle_row",
    "dense_row",
    "next_opening",
    "plain_row",
    "puzzle_row",
    "quotes_row",
    "recall_row",
    "strewn_row",
]

ALIGNED_FACTS = 4
ALIGNED_BLOCK = 32
SPREAD_BLOCKS = 16
QUOTED = 24  # tokens of the longest quoted piece
MIDWAY = 0.4  # of the facts of a row of recall are asked for before its end, too
DRAWS = 100  # until facts fit into a row


def plain_row(source: TextSource, random: Random, length: int) -> Window:
    """`length` consecutive tokens of real text: whole projects and books, nothing cut out."""
    ids = source.stretch(random, source.domain(random), length + 1).astype(np.int64)
    return Window(tokens_T=ids[:-1], targets_T=ids[1:], weights_T=np.ones(length, np.float32))


def dense_row(source: TextSource, random: Random, length: int, asking: Asking = TRAINING) -> Window:
    """A few facts with little between them, then nothing but questions: where the recall circuit forms."""
    facts = draw_facts(random, random.randint(2, 4 if length <= 128 else 6), asking, distractors=0.25)
    strip = Strip()
    domain = source.domain(random)
    gap = random.choice((0, 0, 8, 24))
    for fact in facts:
        if gap:
            strip.add_text(source.stretch(random, domain, random.randint(1, gap)).tolist(), joined=False)
        strip.add_fact(source.statement(random, fact, domain, new_line=random.random() < 0.5), fact)
    strip.add_text(source.encode("\n"))
    while len(strip.tokens) <= length:
        for fact in random.sample(facts, len(facts)):
            strip.add_question(*source.question(random, fact, asking), fact, ANSWER_WEIGHT)
    return strip.window(length)


def aligned_row(
    source: TextSource, random: Random, length: int, asking: Asking = TRAINING, *, num_blocks: int = ALIGNED_FACTS
) -> Window:
    """One fact to a block of 32 tokens, four such blocks, then nothing but questions: where gists become readable.

    Each block is filled up with real text before and after its statement, so that no statement crosses a border. Of
    more than four blocks, half state a fact and the others nothing: the way from a few gists to the dozens of a window.
    """
    domain = source.domain(random)
    num_facts = max(ALIGNED_FACTS, num_blocks // 2)
    stated = _short_statements(source, random, domain, asking, num_facts)
    waiting = list(stated.items())
    states_fact = random.sample([True] * num_facts + [False] * (num_blocks - num_facts), num_blocks)
    strip = Strip()
    for is_fact in states_fact:
        text = source.stretch(random, domain, ALIGNED_BLOCK).tolist()
        if not is_fact:
            strip.add_text(text, joined=False)
            continue
        fact, statement = waiting.pop()
        before = random.randint(0, ALIGNED_BLOCK - len(statement))
        strip.add_text(text[:before], joined=False)
        strip.add_fact(statement, fact, joined=before > 0)
        strip.add_text(text[before : ALIGNED_BLOCK - len(statement)])
    facts = list(stated)
    while len(strip.tokens) <= length:
        for fact in random.sample(facts, len(facts)):
            strip.add_question(*source.question(random, fact, asking), fact, ANSWER_WEIGHT)
    return strip.window(length)


def strewn_row(source: TextSource, random: Random, length: int, asking: Asking = TRAINING) -> Window:
    """Facts anywhere in real text, two thirds of the row, then nothing but questions.

    Statements begin where a sentence or a line does, so that most of them cross the border of two blocks, as they do in
    a memory: one gist then holds the name and the next the value. At most one fact to two blocks.
    """
    domain = source.domain(random)
    stop = 2 * length // 3 // ALIGNED_BLOCK * ALIGNED_BLOCK
    most = max(2, stop // ALIGNED_BLOCK // 2)
    facts = draw_facts(random, random.randint(max(2, most // 4), most), asking, distractors=0.25)
    stated = {fact: source.statement(random, fact, domain, new_line=random.random() < 0.5) for fact in facts}
    text = source.stretch(random, domain, stop)
    openings = source.openings(text, domain)
    room = max(1, stop - sum(len(statement) for statement in stated.values()))
    strip, at = Strip(), 0
    for place, (fact, statement) in zip(sorted(random.randrange(room) for _ in stated), stated.items(), strict=True):
        begin = min(next_opening(openings, max(place, at)), room)
        strip.add_text(text[at:begin].tolist())
        strip.add_fact(statement, fact)
        at = max(at, begin)
    strip.add_text(text[at : max(at, at + stop - len(strip.tokens))].tolist())
    while len(strip.tokens) <= length:
        for fact in random.sample(facts, len(facts)):
            strip.add_question(*source.question(random, fact, asking), fact, ANSWER_WEIGHT)
    return strip.window(length)


def quotes_row(source: TextSource, random: Random, length: int) -> Window:
    """Real text, two thirds of the row, then pieces of it word for word: every word that a gist holds teaches.

    What a piece begins with cannot be known: its first two tokens cost nothing.
    """
    stop = 2 * length // 3 // ALIGNED_BLOCK * ALIGNED_BLOCK
    if stop <= QUOTED:
        raise InvalidValueError(
            f"a row of {length} tokens has no room for quotations; use at least {3 * ALIGNED_BLOCK // 2}"
        )
    text = source.stretch(random, source.domain(random), stop).tolist()
    strip = Strip()
    strip.add_text(text)
    while len(strip.tokens) <= length:
        size = random.randint(6, QUOTED)
        begin = random.randrange(stop - size)
        strip.add_text(text[begin : begin + size], joined=False)
        strip.weights[-size] = 0.0
    return strip.window(length)


def _short_statements(
    source: TextSource, random: Random, domain: str, asking: Asking, num_facts: int
) -> dict[Fact, Ids]:
    """So many facts with statements that fit into a block."""
    for _ in range(100):
        facts = draw_facts(random, 2 * num_facts, asking, distractors=0.25)
        drawn = {fact: source.statement(random, fact, domain, new_line=random.random() < 0.5) for fact in facts}
        short = {fact: ids for fact, ids in drawn.items() if len(ids) <= ALIGNED_BLOCK}
        if len(short) >= num_facts:
            return dict(list(short.items())[:num_facts])
    raise InvalidValueError(
        f"statements of facts hardly ever fit into {ALIGNED_BLOCK} tokens; use a tokenizer with a larger vocabulary"
    )


def recall_row(source: TextSource, random: Random, length: int, asking: Asking = TRAINING) -> Window:
    """Real text of one domain with facts slipped in anywhere, asked for later: some midway, the rest at the end."""
    domain = source.domain(random)
    for draw in range(DRAWS):
        facts = draw_facts(random, random.randint(2, max(3, length // 80)), asking)
        asked_last = random.sample(facts, min(len(facts), random.randint(2, 8)))
        closing = [(source.question(random, fact, asking), fact) for fact in asked_last]
        share = MIDWAY if draw < DRAWS // 2 else 0.0  # a short row may have no room for more than what it ends with
        midway = {fact: source.question(random, fact, asking) for fact in facts if random.random() < share}
        last = sum(len(ask) + len(answer) for (ask, answer, _), _ in closing)
        spent = last + sum(len(ask) + len(answer) for ask, answer, _ in midway.values())
        if (filler := length + 1 - spent - 24 * len(facts)) <= 0:
            continue
        text = source.stretch(random, domain, length + 1)
        strip = Strip()
        at = _tell(source, random, strip, domain, text, filler, facts, midway)
        if (need := length + 1 - last - len(strip.tokens)) >= 0:
            break
    else:
        raise InvalidValueError(
            f"{DRAWS} times facts and questions, lately of about {spent + 24 * len(facts)} tokens, did not fit into a "
            f"row of {length}; use longer rows"
        )
    strip.add_text(text[at : at + need].tolist())
    for question, fact in closing:
        strip.add_question(*question, fact, ANSWER_WEIGHT)
    while len(strip.tokens) < length:
        fact = random.choice(facts)
        strip.add_question(*source.question(random, fact, asking), fact, ANSWER_WEIGHT)
    return strip.window(length)


def _tell(
    source: TextSource,
    random: Random,
    strip: Strip,
    domain: str,
    text: npt.NDArray[np.uint16],
    filler: int,
    facts: Sequence[Fact],
    midway: Mapping[Fact, tuple[Ids, Ids, slice]],
) -> int:
    """Write text with the facts slipped in, and the questions that come midway; how much of the text was used.
    filler: text within which facts stand, one in five of them within its last 128 tokens."""
    openings = source.openings(text, domain)
    events: list[tuple[int, int, Fact, bool]] = []
    for order, fact in enumerate(facts):
        is_anywhere = random.random() < 0.8
        place = random.randrange(filler) if is_anywhere else filler - random.randrange(min(filler, 128))
        events.append((place, order, fact, False))
        if fact in midway:
            events.append((random.randint(place, max(place, filler)), order + len(facts), fact, True))
    at = 0
    for place, _, fact, is_question in sorted(events, key=lambda event: event[:2]):
        stop = next_opening(openings, max(place, at))
        strip.add_text(text[at:stop].tolist())
        if is_question:
            strip.add_question(*midway[fact], fact, ANSWER_WEIGHT)
        else:
            new_line = stop < len(text) and bool(source.opens_line_V[text[stop]]) and random.random() < 0.7
            new_line = new_line or domain == "code"
            strip.add_fact(source.statement(random, fact, domain, new_line=new_line), fact)
        at = max(at, stop)
    return at


def next_opening(openings: npt.NDArray[np.int64], place: int) -> int:
    """The first opening that is not before `place`; the place itself if there is none."""
    index = int(np.searchsorted(openings, place))
    return int(openings[index]) if index < len(openings) else place


def dense_puzzle_row(source: TextSource, random: Random, length: int, *, test: bool = False) -> Window:
    """A few puzzles with little between their statements, then nothing but questions."""
    domain = source.domain(random)
    for _ in range(DRAWS):
        puzzles = draw_puzzles(random, random.randint(2, 4), test=test)
        strip = Strip()
        gap = random.choice((0, 0, 8, 24))
        waiting = [list(zip(puzzle.statements, puzzle.is_needed, strict=True)) for puzzle in puzzles]
        while any(waiting):
            index = random.choice([index for index, left in enumerate(waiting) if left])
            if gap:
                strip.add_text(source.stretch(random, domain, random.randint(1, gap)).tolist(), joined=False)
            text, is_needed = waiting[index].pop(0)
            ids = source.encode(random.choice((" ", "\n")) + text)
            strip.add_fact(ids, puzzles[index], is_evidence=is_needed)
        asked = [(source.question(random, puzzle, TRAINING), puzzle) for puzzle in random.sample(puzzles, len(puzzles))]
        if len(strip.tokens) + sum(len(ask) + len(answer) for (ask, answer, _), _ in asked) <= length + 1:
            break
    else:
        raise InvalidValueError(
            f"{DRAWS} times puzzles, lately of {len(strip.tokens)} tokens without questions, did not fit into a row of "
            f"{length}; use longer rows"
        )
    for question, puzzle in asked:
        strip.add_question(*question, puzzle, ANSWER_WEIGHT)
    while len(strip.tokens) <= length:
        for puzzle in random.sample(puzzles, len(puzzles)):
            strip.add_question(*source.question(random, puzzle, TRAINING), puzzle, ANSWER_WEIGHT)
    return strip.window(length)


def puzzle_row(
    source: TextSource,
    random: Random,
    length: int,
    *,
    test: bool = False,
    in_unseen: bool = False,
    product: bool = False,
) -> Window:
    """Real text of one domain with the statements of puzzles slipped in anywhere, in order; asked for at the end.
    in_unseen: whether in words that no row of training has; product: as sessions ask, and in no other way."""
    domain = source.domain(random)
    for _ in range(DRAWS):
        puzzles = draw_puzzles(random, random.randint(2, max(3, length // 200)), test=test)
        if in_unseen:
            puzzles = [in_unseen_words(puzzle, Random(puzzle.ask)) for puzzle in puzzles]
        asked = random.sample(puzzles, min(len(puzzles), 6))
        closing = [(source.question(random, puzzle, Asking(product=product)), puzzle) for puzzle in asked]
        statements = [
            (source.encode((" " if domain != "code" else "\n# ") + text), puzzle, is_needed)
            for puzzle in puzzles
            for text, is_needed in zip(puzzle.statements, puzzle.is_needed, strict=True)
        ]
        spent = sum(len(ids) for ids, _, _ in statements) + sum(
            len(ask) + len(answer) for (ask, answer, _), _ in closing
        )
        if (room := length + 1 - spent) >= 0:
            break
    else:
        raise InvalidValueError(
            f"{DRAWS} times puzzles of about {spent} tokens did not fit into a row of {length}; use longer rows"
        )
    text = source.stretch(random, domain, room)
    openings = source.openings(text, domain)
    places = {puzzle: sorted(random.randint(0, room) for _ in puzzle.statements) for puzzle in puzzles}
    events = sorted(
        ((places[puzzle].pop(0), order) for order, (_, puzzle, _) in enumerate(statements)), key=lambda event: event[0]
    )
    strip, at = Strip(), 0
    for place, order in events:
        stop = next_opening(openings, max(place, at))
        strip.add_text(text[at:stop].tolist())
        ids, puzzle, is_needed = statements[order]
        strip.add_fact(ids, puzzle, is_evidence=is_needed)
        at = stop
    strip.add_text(text[at:].tolist())
    for question, puzzle in closing:
        strip.add_question(*question, puzzle, ANSWER_WEIGHT)
    while len(strip.tokens) < length:
        strip.add_text(source.stretch(random, domain, length - len(strip.tokens)).tolist(), joined=False)
    return strip.window(length)
