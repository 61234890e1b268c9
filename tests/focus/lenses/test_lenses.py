"""Every lens through one matrix, and the registry that names them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from megacontext.errors import InvalidValueError, UnknownNameError
from megacontext.focus.allocators.registry import make_allocator
from megacontext.focus.lenses.oracle import OracleLens
from megacontext.focus.lenses.registry import as_lens, known_lenses, make_lens, serving_lens
from megacontext.focus.refocusing import refocus
from megacontext.focus.scores import validate_scores
from megacontext.ports.focus import Lens

NAMES = ["attention", "auto", "lensnet", "lexical", "oracle", "recency"]
NEEDED = {"oracle": {"spans": [(8, 12)]}}  # without which a lens serves nobody
TEXT = "The weather was fine and nothing much happened on that day. " * 60


def test_the_registry_knows_its_lenses():
    assert known_lenses() == NAMES
    with pytest.raises(
        UnknownNameError, match="unknown lens 'psychic'; known: attention, auto, lensnet, lexical, oracl"
    ):
        make_lens("psychic")


def test_a_name_is_enough_for_all_but_the_oracle():
    for name in NAMES:
        if name != "oracle":
            assert as_lens(name).name == serving_lens(name) == name
    with pytest.raises(
        InvalidValueError, match=r"'oracle' has to be told .*`OracleLens\(spans=.* here serve attention, a"
    ):
        as_lens("oracle")
    assert as_lens(told := OracleLens(spans=[(0, 4)])) is told
    with pytest.raises(
        UnknownNameError, match="unknown lens 'psychic'; known: attention, auto, lensnet, lexical, rece"
    ):
        as_lens("psychic")


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_valid_repeatable_and_lead_to_a_legal_refocus(name, plain):
    memory = plain.TextMemory(TEXT)
    lens = make_lens(name, **NEEDED.get(name, {}))
    assert isinstance(lens, Lens)
    assert lens.name == name
    for query_text in ("What about the weather?", "", "?!"):
        wc = plain.working_context(memory)
        mass = np.linspace(0, 1, wc.num_entries)
        request = plain.request(memory, query_text, attention_mass=mass, wc=wc)
        scores, again = lens.score(request), lens.score(request)
        validate_scores(request.cut, scores)
        assert scores.utility.tolist() == again.utility.tolist()
        assert list(scores.nominations) == list(again.nominations)
        refocus(wc, scores, make_allocator("greedy"))


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_history_has_no_scores(name, plain):
    options = dict.fromkeys(NEEDED.get(name, {}), ())
    scores = make_lens(name, **options).score(plain.request(plain.TextMemory(""), "anything?"))
    assert scores.utility.shape == (0,)
    assert not scores.nominations


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("recency", {"scale_tokens": 0}),
        ("lexical", {"num_passages": 0}),
        ("lexical", {"sharpness": -1}),
        ("lexical", {"recency": -1}),
        ("oracle", {"recency": float("nan")}),
        ("auto", {"attention": -0.1}),
        ("lensnet", {"num_places": 0}),
        ("lensnet", {"recency": -1}),
    ],
)
def test_options_outside_their_limits_are_errors(name, options):
    with pytest.raises(InvalidValueError, match=f"{next(iter(options.values()))}; choose a "):
        make_lens(name, **options)


def test_focus_works_without_torch():
    code = (
        "import sys; import megacontext.focus.refocusing, megacontext.focus.lenses.registry; "
        "import megacontext.focus.allocators.registry; "
        "sys.exit(any(name.split('.')[0] in ('torch', 'transformers') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
