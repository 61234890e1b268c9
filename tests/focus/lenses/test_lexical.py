from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from megacontext.focus.allocators.registry import make_allocator
from megacontext.focus.lenses.lexical import LexicalLens
from megacontext.focus.lenses.recency import recency_utility
from megacontext.focus.refocusing import refocus

FILLER = [
    "The rain went on for hours.",
    "Nobody in the village had a code of manners.",
    "They talked about Alice and her garden.",
    "A ship left the harbour before dawn.",
    "Smith and his brother repaired the roof.",
    "It is what it is, he said.",
    "For a while the road ran beside the river.",
]


def memory_with(plain, *facts, num_filler=400, seed=0):
    """Facts at even distances in much filler."""
    choose = random.Random(seed)
    sentences = [choose.choice(FILLER) for _ in range(num_filler)]
    for at, fact in enumerate(facts):
        sentences.insert((at + 1) * num_filler // (len(facts) + 1), fact)
    return plain.TextMemory(" ".join(sentences))


def blocks(plain, memory, text):
    """The blocks that a piece of text touches."""
    first = memory.all_text.index(text)
    start, stop = first // 4 // plain.BLOCK, (first + len(text) - 1) // 4 // plain.BLOCK + 1
    return start * plain.BLOCK, min(stop * plain.BLOCK, memory.num_tokens)


@pytest.mark.parametrize("shift", range(0, 32, 3))
@pytest.mark.parametrize(
    "fact",
    [
        "The code for Alice Smith is 48213.",
        "48213 is the code for Alice Smith.",
        "Today Alice Smith was given the code 48213.",
        'CODES["Alice Smith"] = 48213',
    ],
)
def test_the_whole_fact_is_nominated_first_wherever_blocks_divide_it(plain, fact, shift):
    memory = memory_with(plain, "x" * shift + ". " + fact + "\n\n", "The code for Alice Jones is 77777.")
    scores = LexicalLens().score(plain.request(memory, "What is the code for Alice Smith?"))
    best = max(scores.nominations, key=lambda place: place.utility)
    start, stop = blocks(plain, memory, fact)
    assert best.start <= start
    assert best.stop >= stop
    assert best.stop - best.start <= stop - start + 2 * plain.BLOCK
    others = [place.utility for place in scores.nominations if place is not best]
    assert all(utility < 0.8 * best.utility for utility in others)


def test_a_nominated_fact_is_raw_after_the_refocus_and_the_budget_is_spent(plain):
    fact = "The code for Alice Smith is 48213."
    memory = memory_with(plain, fact, num_filler=3000)
    wc = plain.working_context(memory, budget_entries=200)
    refocus(
        wc,
        LexicalLens().score(plain.request(memory, "What is the code for Alice Smith?", wc=wc)),
        make_allocator("greedy"),
    )
    start, stop = blocks(plain, memory, fact)
    inside = (wc.starts >= start) & (wc.stops <= stop)
    assert (wc.levels[inside] == 0).all()
    assert wc.budget_entries - wc.cost < plain.BLOCK
    assert (wc.levels[wc.stops > memory.num_tokens - 8] == 0).all()


def test_of_two_equal_facts_the_later_one_comes_first(plain):
    memory = memory_with(plain, "The code for Baxter is 11111.", "The code for Baxter is 22222.")
    scores = LexicalLens().score(plain.request(memory, "What is the code for Baxter?"))
    best = max(scores.nominations, key=lambda place: place.utility)
    assert best.start <= memory.token_of("22222") < best.stop


def test_facts_about_others_are_left_out_where_the_whole_query_is_found(plain):
    memory = memory_with(plain, "The code for Zora Quell is 48213.", "The code for Zora Finch is 77777.")
    scores = LexicalLens().score(plain.request(memory, "What is the code for Zora Quell?"))
    assert not any(place.start <= memory.token_of("77777") < place.stop for place in scores.nominations)


def test_facts_about_others_are_all_there_is_where_the_whole_query_is_nowhere(plain):
    memory = memory_with(plain, "The code for Zora Finch is 77777.", "Bella Quell was given the code 48213.")
    scores = LexicalLens().score(plain.request(memory, "What is the code for Zora Quell?"))
    for value in ("77777", "48213"):
        assert any(place.start <= memory.token_of(value) < place.stop for place in scores.nominations)


def test_an_identifier_finds_its_definition(plain):
    code = 'def open_vault(key):\n    return VAULT_CODES[key]\n\nVAULT_CODES = {"north": 5}\n'
    memory = memory_with(plain, code)
    scores = LexicalLens().score(plain.request(memory, "Where is open_vault defined?"))
    best = max(scores.nominations, key=lambda place: place.utility)
    assert best.start <= memory.token_of("open_vault") < best.stop


def test_only_words_that_say_something_are_searched(plain):
    memory = memory_with(plain, "The code for Baxter is 11111.")
    LexicalLens().score(plain.request(memory, "What is the code for Baxter?"))
    assert memory.queries == ["code Baxter"]


def test_a_question_of_function_words_alone_is_searched_as_it_is(plain):
    memory = memory_with(plain)
    LexicalLens().score(plain.request(memory, "What is it?"))
    assert memory.queries == ["What is it?"]


def test_words_that_are_nowhere_leave_the_recent_tail(plain):
    memory = memory_with(plain)
    scores = LexicalLens().score(plain.request(memory, "Zyzzyva quokka?"))
    assert not scores.nominations
    assert scores.utility.tolist() == (0.25 * recency_utility(plain.request(memory).cut)).tolist()


def test_text_that_is_cut_within_characters_does_no_harm(plain):
    memory = memory_with(plain, "Für Łukasz gilt der Code 48213 — naïve Größe.")
    scores = LexicalLens().score(plain.request(memory, "Code für Łukasz?"))
    best = max(scores.nominations, key=lambda place: place.utility)
    assert best.start <= memory.token_of("48213") < best.stop


def test_nominations_do_not_overlap_and_are_few(plain):
    memory = memory_with(plain, *[f"The code for Alice Smith is {number}." for number in range(10)])
    nominations = LexicalLens(num_places=4).score(plain.request(memory, "code for Alice Smith")).nominations
    assert len(nominations) == 4
    spans = sorted((place.start, place.stop) for place in nominations)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_the_text_that_asks_is_no_answer_to_itself(plain):
    said = "The heron of Lake Ontor sleeps until noon. "
    memory = plain.TextMemory("Rain fell on the hills. " * 30 + said + "Rain fell on the hills. " * 30 + said.strip())
    request = plain.request(memory, said)
    begin = memory.token_of("Lake Ontor")
    last = LexicalLens().score(request).nominations[0]
    assert last.start > begin + 100, "of two equal places the newest"
    asking = len(said) // 4 + 1  # four characters are a token here
    earlier = LexicalLens().score(replace(request, asking_tokens=asking)).nominations
    assert earlier[0].start <= begin < earlier[0].stop
    assert all(place.stop <= memory.num_tokens - asking for place in earlier)
