from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from megacontext.focus.lenses.attention import attention_utility
from megacontext.focus.lenses.auto import AutoLens
from megacontext.focus.lenses.lexical import LexicalLens
from megacontext.focus.lenses.recency import recency_utility

TEXT = "It was a plain day without news. " * 40 + "The code for Baxter is 48213. " + "Nothing else was said. " * 40


def test_auto_is_the_weighed_sum_of_its_parts(plain):
    memory = plain.TextMemory(TEXT)
    request = plain.request(memory, "What is the code for Baxter?")
    request = plain.request(memory, request.query_text, attention_mass=np.ones(len(request.cut.levels)))
    scores = AutoLens(lexical=2.0, recency=0.5, attention=0.25).score(request)
    expected = 0.5 * recency_utility(request.cut) + 0.25 * attention_utility(request)
    assert scores.utility == pytest.approx(expected)
    found = LexicalLens(recency=0).score(request).nominations
    assert found
    assert [(place.start, place.stop, place.utility) for place in scores.nominations] == [
        (place.start, place.stop, 2.0 * place.utility) for place in found
    ]


@pytest.mark.parametrize(
    ("question", "certain"),
    [
        ("What is the code for Baxter?", True),
        ("What is the code for Robert?", False),
        ("And the news?", False),
        ("", False),
    ],
)
def test_all_words_in_one_place_are_certain_unless_they_stand_everywhere(plain, question, certain):
    request = plain.request(plain.TextMemory(TEXT), question)
    assert AutoLens().score(request).is_certain == certain
    assert not AutoLens(lexical=0).score(request).is_certain


def test_a_part_of_no_weight_is_not_asked(plain):
    memory = plain.TextMemory(TEXT)
    assert not AutoLens(lexical=0).score(plain.request(memory, "What is the code for Baxter?")).nominations
    assert memory.queries == []


@dataclass
class Told:
    """A learned lens that knows one block; notes whether it was asked."""

    block: int
    query_token_ids: np.ndarray = field(default_factory=lambda: np.zeros(4, dtype=np.uint32))
    features: tuple[str, ...] = ("level",)
    num_scratch: int = 4
    stakes: tuple[float, np.ndarray] = (0.0, np.array([8.0, 8.0], dtype=np.float32))
    num_asked: int = 0

    def of_blocks(self, blocks_n, features_nF, words=None):
        self.num_asked += 1
        return np.where(blocks_n == self.block, 5.0, -20.0).astype(np.float32)


def learned_request(plain, question):
    memory = plain.TextMemory(TEXT)
    memory.tokens = lambda start, stop: np.zeros(stop - start, dtype=np.uint32)
    request = plain.request(memory, question)
    return replace(request, learned=Told(memory.token_of("Nothing else was said. Nothing") // 8 + 3))


@pytest.mark.parametrize("question", ["Which digits belong to Bax?", "What number does Bax have?"])
def test_where_words_find_too_little_the_learned_lens_is_asked(plain, question):
    request = learned_request(plain, question)
    start = request.learned.block * 8
    found = AutoLens().score(request).nominations
    assert [place.start for place in found] == [start]
    assert found[0].utility > 5, "in its own unit, nats"
    assert start not in {place.start for place in AutoLens(covered=0).score(request).nominations}
    assert start not in {place.start for place in AutoLens().score(replace(request, learned=None)).nominations}


def test_where_words_find_enough_they_lead(plain):
    request = learned_request(plain, "Which code belongs to Baxter?")
    assert AutoLens().score(request).nominations == LexicalLens(recency=0).score(request).nominations
    assert not request.learned.num_asked
    assert AutoLens(covered=1.0).score(request).nominations[0].start == request.learned.block * 8
    assert AutoLens(lexical=0).score(request).nominations[0].start == request.learned.block * 8
