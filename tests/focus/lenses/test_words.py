from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from megacontext.catalog.words import words_of
from megacontext.focus.lenses.words import FUNCTION_WEIGHT, NAME_WEIGHT, find_these, find_words, query_words, stem
from megacontext.folding import without_accents


@pytest.mark.parametrize(
    ("one", "other"),
    [("codes", "code"), ("Baxter's", "BAXTER"), ("opened", "opens"), ("houses", "house"), ("gisting", "gists")],
)
def test_forms_of_a_word_have_one_stem(one, other):
    assert stem(one) == stem(other)


@pytest.mark.parametrize(("one", "other"), [("was", "wa"), ("code", "cod"), ("bus", "bu")])
def test_short_words_keep_their_ends(one, other):
    assert stem(one) != stem(other)


def test_identifiers_are_found_whole_and_in_parts():
    words = {word for word, _, _ in find_words("call open_spans(HTTPServer2)")}
    assert {"call", "open_span", "open", "span", "httpserver2", "server", "2"} <= words


def test_positions_are_those_of_the_text():
    text = "— The café, Anna-Lena’s"
    for word, start, stop in find_words(text):
        assert stem(without_accents(text[start:stop])) == word


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("小王的门禁密码是什么？", "小王的门禁密码是四八二一三。"),
        ("田中さんの暗証番号は何ですか", "田中さんの暗証番号は四桁です。"),
        ("รหัสของสมชายคืออะไร", "รหัสของสมชายคือสี่แปด"),
    ],
)
def test_scripts_without_spaces_are_compared_by_pairs_as_the_index_has_them(question, text):
    weights, content = query_words(question)
    assert all(run in question for run in content)
    assert set(weights) <= set(words_of(question)), "no pair that the index does not have"
    found = find_these(f"Before. {text} After.", weights)
    assert len({word for word, _, _ in found}) >= 0.4 * len(weights)
    assert found == [each for each in find_words(f"Before. {text} After.") if each[0] in weights]


def test_accents_are_folded_as_in_the_index():
    weights, content = query_words("Where does Jose Nunez live?")
    assert content == ["Jose", "Nunez", "live"]
    text = "Later… señor José Nuñez moved; NuñezTower is his."
    found = find_these(text, weights)
    assert [text[start:stop] for _, start, stop in found] == ["José", "Nuñez", "Nuñez"]
    assert query_words("José Nuñez")[0].keys() == query_words("Jose Nunez")[0].keys()


def test_names_weigh_much_and_questions_little():
    weights, content = query_words("What is the door code for Alice Smith in room_12?")
    assert content == ["door", "code", "Alice", "Smith", "room_12"]
    assert weights[stem("Alice")] == weights[stem("Smith")] == weights["room_12"] == NAME_WEIGHT
    assert weights["door"] == weights["code"] == 1.0
    assert weights["what"] == weights["is"] == weights["the"] == FUNCTION_WEIGHT


def test_a_capital_at_the_start_of_a_sentence_is_no_name():
    assert query_words("Remember this. Doors open when?")[0][stem("Doors")] == 1.0


PIECES = st.sampled_from(
    [
        "Alice",
        "alices",
        "Green's",
        "open_spans",
        "HTTPServer2",
        "Straße",
        "İx",
        "ﬁne",
        "12",
        "-",
        "’",
        ".",
        " ",
        "\n",
        "\t",
        "_",
    ]
)


@given(st.lists(PIECES | st.text(max_size=3), max_size=30).map("".join), st.data())
@example("Straße strasse ﬁne Alice", None)
def test_wanted_words_are_found_where_all_words_are(text, data):
    every = list(find_words(text))
    known = sorted({word for word, _, _ in every})
    stems = {"alic", "strass"} if data is None else data.draw(st.sets(st.sampled_from([*known, "alic", "never"])))
    assert find_these(text, stems) == [found for found in every if found[0] in stems]


def test_what_is_left_of_a_contraction_says_little():
    weights, content = query_words("What's Alice Green's code? Don't you know?")
    assert content[:3] == ["Alice", "Green's", "code"]
    assert weights["s"] == weights["t"] == FUNCTION_WEIGHT
