"""Rows that tell bAbI stories in real text, and ask about them."""

from __future__ import annotations

from random import Random

from megacontext.errors import InvalidValueError
from megacontext.training.babi import WORLDS, Story
from megacontext.training.recall import TRAINING
from megacontext.training.rows import next_opening
from megacontext.training.windows import ANSWER_WEIGHT, Strip, TextSource, Window

__all__ = ["babi_row"]

TOKENS_PER_STORY = 300
MOST_STORY_SHARE = 0.75
DRAWS = 50


def babi_row(source: TextSource, random: Random, length: int) -> Window:
    """Real text of one domain with bAbI stories told in it sentence by sentence, as BABILong does.

    Each story ends with a question at the end of the row; in every other one, earlier questions are asked on the way
    as well. Several stories stand in each other's way, but no two are of one world, so that there is one answer.
    """
    domain = source.domain(random)
    worlds, told = set(WORLDS.values()), list[_Told]()
    spent = 0
    for _ in range(max(1, round(random.uniform(0.5, 1.5) * length / TOKENS_PER_STORY))):
        for _ in range(DRAWS):
            story = source.stories.draw(random, worlds=frozenset(worlds))
            if story is None:
                break
            one = _Told(source, random, domain, story)
            if spent + one.num_tokens <= MOST_STORY_SHARE * length:
                told.append(one)
                worlds.remove(story.world)
                spent += one.num_tokens
                break
    if not told:
        raise InvalidValueError(f"hardly any bAbI story fits into a row of {length}; use longer rows")
    room = length + 1 - spent
    text = source.stretch(random, domain, room)
    openings = source.openings(text, domain)
    events = sorted(
        (place, order, event)
        for order, one in enumerate(told)
        for event, place in enumerate(sorted(random.randint(0, room) for _ in one.events))
    )
    strip, at = Strip(), 0
    for place, order, event in events:
        stop = next_opening(openings, max(place, at))
        strip.add_text(text[at:stop].tolist())
        told[order].tell(strip, event)
        at = stop
    strip.add_text(text[at:].tolist())
    for one in random.sample(told, len(told)):
        one.ask(strip, one.last)
    while len(strip.tokens) < length:
        strip.add_text(source.stretch(random, domain, length - len(strip.tokens)).tolist(), joined=False)
    return strip.window(length)


class _Told:
    """A story up to one of its questions, encoded: what happens on the way, and the question that closes it."""

    def __init__(self, source: TextSource, random: Random, domain: str, story: Story) -> None:
        self.story = story
        self.last = random.randrange(len(story.questions))
        first_asked = random.choice((0, self.last))
        ends = story.questions[self.last][0]
        lead = " " if domain != "code" else "\n# "
        self.sentences = {number: source.encode(lead + text) for number, text in story.lines.items() if number < ends}
        self.questions = {
            index: source.question(random, story.puzzle(index), TRAINING) for index in range(first_asked, self.last + 1)
        }
        self.asked = {story.questions[index][0]: index for index in range(first_asked, self.last)}
        self.events = sorted({*self.sentences, *self.asked})
        self.spans: dict[int, tuple[int, int]] = {}

    @property
    def num_tokens(self) -> int:
        """What it takes of a row."""
        asked = sum(len(ask) + len(answer) for ask, answer, _ in self.questions.values())
        return asked + sum(len(ids) for ids in self.sentences.values())

    def tell(self, strip: Strip, event: int) -> None:
        """Add a sentence, or a question on the way."""
        number = self.events[event]
        if number in self.asked:
            self.ask(strip, self.asked[number])
            return
        start = len(strip.tokens)
        strip.add_text(self.sentences[number])
        self.spans[number] = (start, len(strip.tokens))

    def ask(self, strip: Strip, index: int) -> None:
        """Add a question; its evidence are the sentences that the data set says it takes."""
        puzzle = self.story.puzzle(index)
        strip.stated[puzzle] = [self.spans[number] for number in self.story.questions[index][3]]
        strip.add_question(*self.questions[index], puzzle, ANSWER_WEIGHT)
