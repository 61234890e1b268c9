"""The three ways in which gists are known to fail, with everything closed to gists.

Source: Deng et al. (2024), A silver bullet or a compromise for full attention? A comprehensive study of gist
token-based context compression.

- *By the boundary*: text right after what was compressed is predicted worst. Nats of the next 64 tokens by how far they
  are from the last gist.
- *If surprise*: what does not belong to its surroundings is lost first. A sentence is quoted from the history, given
  its first words: one of the novel's own, or one of another text that was put into it.
- *Along the way*: a long exact string is begun and then lost. A number of 32 digits, told once: nats by position.
"""

from __future__ import annotations

import re
from abc import abstractmethod

from megacontext.errors import InvalidValueError
from megacontext.evaluation.data_folder import NOVELS
from megacontext.evaluation.hidden_facts import draw_facts
from megacontext.evaluation.tasks.haystacks import ROOM_TOKENS, hide, sentences_of, stretch, stretch_texts
from megacontext.evaluation.tasks.task import Case, Continuation, Document, Metric, Plan, Setup, Task, plans_by_length

__all__ = ["AlongTheWayTask", "BoundaryTask", "SurpriseTask"]

SOURCE = "Deng et al. (2024), A silver bullet or a compromise for full attention?"
OFFSETS = (4, 8, 16, 32, 64)
DIGITS = 32
MOST_DRAWS = 20
LINE_END = re.compile(r"(?<!\n)\n(?!\n)")
DIGIT_PARTS = 4
CUE_WORDS = 5
SHORTEST_SENTENCE_WORDS, LONGEST_SENTENCE_WORDS = 14, 40


def offset_label(offset: int) -> str:
    """``offset 4-7``: where a token stands after the last gist.

    >>> offset_label(0), offset_label(5)
    ('offset 0-3', 'offset 4-7')
    """
    stop = next(stop for stop in OFFSETS if offset < stop)
    start = max((other for other in OFFSETS if other <= offset), default=0)
    return f"offset {start}-{stop - 1}"


def digit_label(index: int) -> str:
    """``digits 1-8``, and so on.

    >>> digit_label(0), digit_label(31)
    ('digits 1-8', 'digits 25-32')
    """
    part = DIGITS // DIGIT_PARTS
    return f"digits {index // part * part + 1}-{index // part * part + part}"


class _ClosedTask(Task):
    source = SOURCE
    methods = "closed"
    reads = (NOVELS,)
    prefix = ""

    def plans(self, setup: Setup) -> list[Plan]:
        return plans_by_length(self.name, setup, self.case, usual=((4096,), 40), quick=((2048,), 2))

    @abstractmethod
    def case(self, setup: Setup, key: str, length: int) -> Case: ...


class BoundaryTask(_ClosedTask):
    """Lost by the boundary."""

    name = "boundary"
    summary = "gists fail by the boundary: nats of what follows them, by distance from the last gist"
    metrics = (
        Metric(name="all", title="nats per token, all tokens", is_loss=True),
        *(
            Metric(name=offset_label(offset), title=f"nats per token, {offset_label(offset)}", is_loss=True)
            for offset in (0, *OFFSETS[:-1])
        ),
    )
    columns = ("length",)

    def case(self, setup: Setup, key: str, length: int) -> Case:
        """A novel of whole blocks, and its next tokens."""
        random = setup.random(key)
        num_next = OFFSETS[-1]
        num_tokens = (length - num_next) // setup.block_tokens * setup.block_tokens
        history, following = stretch_texts(random, setup.codec, setup.data.books, num_tokens, num_next)
        token_ids = setup.codec.encode(history + following).token_ids
        target_ids = token_ids[num_tokens : num_tokens + num_next]
        labels = tuple(offset_label(offset) for offset in range(len(target_ids)))
        return Case(
            documents=(Document(name="novel", token_ids=token_ids[:num_tokens]),),
            items=(Continuation(target_ids=target_ids, labels=labels),),
        )


class SurpriseTask(_ClosedTask):
    """Lost if surprise."""

    name = "surprise"
    summary = "gists fail if surprise: quoting a sentence of the history, its own or foreign to it"
    metrics = (Metric(name="all", title="nats per token of the quotation", is_loss=True),)
    columns = ("length", "sentence")

    def case(self, setup: Setup, key: str, length: int) -> Case:
        """A novel with two sentences of another one in it; two of its own and those are quoted."""
        random = setup.random(key)
        books = [_unwrapped(book) for book in setup.data.books]
        for _ in range(MOST_DRAWS):  # a place may have no two sentences that can be quoted: a table of contents
            own_book, other_book = random.sample(range(len(books)), 2) if len(books) > 1 else (0, 0)
            other = stretch(random, setup.codec, [books[other_book]], 4096)
            foreign = random.sample(found, 2) if len(found := _quotable(other, other)) > 1 else []
            used = sum(len(setup.codec.encode(sentence).token_ids) + 2 for sentence in foreign)
            novel = stretch(random, setup.codec, [books[own_book]], length - ROOM_TOKENS - used)
            middle = novel[: int(0.7 * len(novel))]
            own = random.sample(found, 2) if len(found := _quotable(middle, novel)) > 1 else []
            if own and foreign:
                break
        else:
            raise InvalidValueError(
                f"no {length} tokens of the books hold two sentences of {SHORTEST_SENTENCE_WORDS} to "
                f"{LONGEST_SENTENCE_WORDS} words that stand once; use a greater length, or novels"
            )
        history = hide(novel, foreign, [random.uniform(0.05, 0.7) for _ in foreign])
        items = [
            _quotation(setup, sentence, {"sentence": name})
            for name, sentences in (("own", own), ("foreign", foreign))
            for sentence in sentences
        ]
        return Case(documents=(Document(name="novel", text=history),), items=tuple(items))


class AlongTheWayTask(_ClosedTask):
    """Lost along the way."""

    name = "way"
    summary = "gists fail along the way: a number of 32 digits that was told once, by digit"
    metrics = (
        Metric(name="all", title="nats per token of the number", is_loss=True),
        *(
            Metric(name=digit_label(index), title=f"nats per token, {digit_label(index)}", is_loss=True)
            for index in range(0, DIGITS, DIGITS // DIGIT_PARTS)
        ),
    )
    columns = ("length",)

    def case(self, setup: Setup, key: str, length: int) -> Case:
        """A novel with one long number in it."""
        random = setup.random(key)
        (fact,) = draw_facts(random, 1)
        digits = "".join(random.choices("0123456789", k=DIGITS))
        begin = f"The serial number of {fact.name} is"
        statement = f"{begin} {digits}."
        used = len(setup.codec.encode(statement).token_ids) + 2
        novel = stretch(random, setup.codec, setup.data.books, length - 2 * ROOM_TOKENS - used)
        encoded = setup.codec.encode(f" {digits}")
        ends = [*encoded.char_starts[1:].tolist(), DIGITS + 1]
        labels = tuple(digit_label(end - 2) if end > 1 else "" for end in ends)  # by its last digit; '' for the space
        item = Continuation(target_ids=encoded.token_ids, labels=labels, cue=f"\n{begin}", evidence=(statement,))
        history = hide(novel, [statement], [random.uniform(0.05, 0.7)])
        return Case(documents=(Document(name="novel", text=history),), items=(item,))


def _unwrapped(text: str) -> str:
    """Paragraphs as one line each.

    >>> _unwrapped("A long\\nsentence.\\n\\nAnother one.")
    'A long sentence.\\n\\nAnother one.'
    """
    return LINE_END.sub(" ", text)


def _quotable(text: str, whole: str) -> list[str]:
    """Sentences of one line that stand once, neither short nor long."""
    found = []
    for sentence in map(str.strip, sentences_of(text)):
        words = len(sentence.split())
        if SHORTEST_SENTENCE_WORDS <= words <= LONGEST_SENTENCE_WORDS and "\n" not in sentence:
            found += [sentence] if whole.count(sentence) == 1 else []
    return found


def _quotation(setup: Setup, sentence: str, facets: dict[str, str]) -> Continuation:
    words = sentence.split(" ")
    cue, rest = " ".join(words[:CUE_WORDS]), " " + " ".join(words[CUE_WORDS:])
    token_ids = setup.codec.encode(rest).token_ids
    return Continuation(
        target_ids=token_ids,
        labels=("",) * len(token_ids),
        cue=f"\n{cue}",
        evidence=(sentence,),
        facets=facets,
    )
