"""The gate of a base, against decoders whose use of context is known, and at the end of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from megacontext.errors import InvalidValueError, TrainingError
from megacontext.nets.core import Core
from megacontext.testing.fake_core import TINY_CORE
from megacontext.training.base_gate import CONTEXTS, BaseGate, GateConfig, measure_gate
from megacontext.training.held_out import core_logits
from megacontext.training.plan import Plan
from megacontext.training.settings import read_settings
from megacontext.training.tokens import TokenStore

V = 1000
FEW = GateConfig(rows=2)
WORDS = [b" " + bytes(97 + index // 26**place % 26 for place in range(5)) for index in range(V)]
BASE = Path(__file__).parents[2] / "recipes" / "core"


def needing(num_tokens: int, *, sure: float) -> Callable[[Tensor], Tensor]:
    """A decoder that is the surer of the next token the more context it has, up to so many tokens."""

    def logits(ids_BT: Tensor) -> Tensor:
        next_BT = torch.cat([ids_BT[:, 1:], ids_BT[:, -1:] + 1], 1)  # the tokens below follow each other
        share_T = torch.arange(1, ids_BT.shape[1] + 1).clamp(max=num_tokens) / 2048
        return torch.nn.functional.one_hot(next_BT % V, V) * (sure * share_T)[None, :, None]

    return logits


@pytest.fixture
def held_out() -> dict[str, TokenStore]:
    """Every token is a word of its own that comes again a thousand tokens later: all are far."""
    ids = np.tile(np.arange(V), 5).astype(np.uint16)
    store = TokenStore(ids_N=ids, starts_D=np.array([0]), names=("all",))
    return {"books": store, "code": store}


def test_a_base_that_uses_all_of_its_context_passes(held_out: dict[str, TokenStore]) -> None:
    report = measure_gate(needing(2048, sure=20.0), held_out, WORDS, FEW)
    assert report.missed == ()
    assert report.figures["gate/is_reached"] == 1.0

    def nats(position: int) -> float:
        bonus = 20.0 * (position + 1) / 2048
        return math.log(math.exp(bonus) + V - 1) - bonus

    for domain in held_out:
        for length in CONTEXTS:
            expected = np.mean([nats(position) for position in range(length - 65, length - 1)])
            assert report.figures[f"gate/{domain}/nats_{length}"] == pytest.approx(expected, abs=1e-3)
        short, whole = (np.mean([nats(at) for at in range(length - 257, length - 1)]) for length in (512, 2048))
        assert report.figures[f"gate/{domain}/far_gain"] == pytest.approx(short - whole, abs=0.01)


def test_what_is_missed_is_named(held_out: dict[str, TokenStore]) -> None:
    report = measure_gate(needing(700, sure=20.0), {"books": held_out["books"]}, WORDS, FEW)
    (line,) = report.missed
    assert line.startswith("books cost ")
    assert "after 2,048 tokens" in line
    assert line.endswith("after 1,024")
    assert report.figures["gate/is_reached"] == 0.0
    faint = needing(2048, sure=0.5)
    report = measure_gate(faint, held_out, WORDS, FEW)
    assert [line.partition(" nats")[0][:-4] for line in report.missed] == [
        "far words of books gain ",
        "far words of code gain ",
    ]
    assert measure_gate(faint, held_out, WORDS, replace(FEW, least_far_gain=0.3)).missed == ()
    level = needing(1, sure=20.0)
    assert len(measure_gate(level, held_out, WORDS, replace(FEW, least_far_gain=0)).missed) == 8, "level is no fall"
    assert measure_gate(level, held_out, WORDS, replace(FEW, least_far_gain=0, most_rise=0.01)).missed == ()


def test_no_number_and_no_far_word_pass_nothing(held_out: dict[str, TokenStore]) -> None:
    report = measure_gate(lambda ids: torch.full((*ids.shape, V), math.nan), held_out, WORDS, FEW)
    assert len(report.missed) == 2 * len(CONTEXTS)
    report = measure_gate(needing(2048, sure=20.0), held_out, [b"1 "] * V, FEW)
    assert [line[:18] for line in report.missed] == ["far words of books", "far words of code "]
    assert not any(name.endswith("far_gain") for name in report.figures)


def save(stores: dict[str, TokenStore], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for domain, store in stores.items():
        store.save(folder / f"{domain}_held_out.npz")
    return folder


def test_a_run_warns_or_stops_and_logs(held_out: dict[str, TokenStore], tmp_path: Path) -> None:
    torch.manual_seed(0)
    core = Core(replace(TINY_CORE, vocab_size=V, max_positions=2048))
    folder = save(held_out, tmp_path / "data")
    for when in ("warn", "stop"):
        config = replace(FEW, rows=1, when_missed=when)
        gate = BaseGate.of(config, core_logits(core), folder, WORDS, is_asked_for=False)
        assert gate is not None
        if when == "warn":
            line = gate.judge(tmp_path, 7)
            assert line is not None
            assert line.startswith("this base does not use far context as [gate] asks: books cost ")
        else:
            with pytest.raises(TrainingError, match=r"^this base does not use .*checkpoint\.pt is there") as caught:
                gate.judge(tmp_path, 8)
            assert "\n" not in str(caught.value)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [7, 8]
    assert records[0]["gate/missed"]
    assert {"gate/books/nats_128", "gate/code/nats_2048", "gate/is_reached"} <= records[0].keys()
    good = BaseGate(config=FEW, logits=needing(2048, sure=20.0), stores=held_out, pieces_V=WORDS)
    assert good.judge(tmp_path, 9) is None


def test_text_to_judge_by_is_asked_for_before_a_run(held_out: dict[str, TokenStore], tmp_path: Path) -> None:
    short = {**held_out, "code": replace(held_out["code"], ids_N=held_out["code"].ids_N[:2048])}
    folder = save(short, tmp_path / "data")
    logits = needing(2048, sure=1.0)
    assert BaseGate.of(FEW, logits, folder, WORDS, is_asked_for=False) is None
    with pytest.raises(InvalidValueError, match=r"code_held_out\.npz has 2,048; give more text"):
        BaseGate.of(FEW, logits, folder, WORDS, is_asked_for=True)
    (folder / "books_held_out.npz").unlink()
    with pytest.raises(InvalidValueError, match=r"books_held_out\.npz has 0"):
        BaseGate.of(FEW, logits, folder, WORDS, is_asked_for=True)


def test_bases_of_long_rows_are_judged_and_others_if_they_ask(tmp_path: Path) -> None:
    for name, config in (("base", GateConfig()), ("base_m", GateConfig()), ("memory", None)):
        assert Plan.read(read_settings(BASE / f"{name}.toml")).gate == config
    file = tmp_path / "own.toml"
    for name in ("base", "memory"):
        file.write_text((BASE / f"{name}.toml").read_text() + '[gate]\nwhen_missed = "stop"\nrows = 4\n')
        assert Plan.read(read_settings(file)).gate == GateConfig(when_missed="stop", rows=4)
    file.write_text((BASE / "base.toml").read_text() + '[gate]\nwhen_missed = "halt"\n')
    with pytest.raises(InvalidValueError, match=r"\[gate\]: when_missed is 'halt'; choose one of warn, stop"):
        Plan.read(read_settings(file))
    file.write_text((BASE / "base.toml").read_text().replace("length = 2048", "length = 1024"))
    assert Plan.read(read_settings(file)).gate is None
    file.write_text(file.read_text() + "[gate]\n")
    with pytest.raises(InvalidValueError, match=r"windows of 2,048 tokens, but the longest row is 1024; add longer"):
        Plan.read(read_settings(file))
