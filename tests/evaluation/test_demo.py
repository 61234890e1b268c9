"""The demo, small: it runs whole, says what it did, and touches nobody else's folder."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from megacontext.bases.core_folder import CoreNets, write_core_folder
from megacontext.bases.registry import BaseHandle
from megacontext.errors import BudgetError, InvalidValueError, MemoryExistsError
from megacontext.evaluation.demo import MARKER, DemoConfig, affordable_gister, prepare_folder, run_demo
from megacontext.evaluation.demo_screen import DemoScreen, around
from megacontext.evaluation.pace import Pace
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.testing.fake_core import TINY_CORE, TINY_GIST_NET, TINY_LENS_NET


@pytest.mark.slow
def test_a_small_demo_runs_whole(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    config = DemoConfig(
        out=out,
        num_tokens=20_000,
        num_facts=2,
        num_continuations=2,
        num_short=1,
        num_generated=4,
        gister="mean",
        budget_entries=400,
    )
    screen = io.StringIO()
    result = run_demo(config, console=Console(file=screen, width=100), progress=Console(file=io.StringIO()))
    said = screen.getvalue()
    content = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert result.comparison.num_tokens >= 20_000
    assert {method["name"] for method in content["comparison"]["methods"]} == {
        *("recency", "rag", "megacontext", "oracle"),
    }
    assert all(len(method["correct"]) == len(method["nats"]) == 2 for method in content["comparison"]["methods"])
    assert "full context" in said
    assert "cannot be told apart" in said or "finds most" in said
    for sample in content["samples"]:
        assert all((out / "library" / span["uri"]).is_file() for span in sample["sources"]), "no path of a machine"
        stated = [
            path for path in (out / "library").rglob("*.*") if sample["value"] in path.read_text(encoding="utf-8")
        ]
        assert len(stated) == 1
    assert "<svg" in (out / "index.html").read_text(encoding="utf-8")
    assert (out / "detail.png").stat().st_size > 10_000
    assert len(result.trace.steps) == 2


def test_a_base_that_learned_memory_is_shown_with_its_own_lens(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    core = Core(replace(TINY_CORE, vocab_size=4096))
    nets = CoreNets(core=core, gist_net=GistNet(TINY_GIST_NET), lens_net=LensNet(TINY_LENS_NET))
    write_core_folder(folder, nets, [BaseHandle("reference").folder / "tokenizer.json"], eos_token_id=1)
    config = DemoConfig(
        out=tmp_path / "demo",
        base=str(folder),
        num_tokens=20_000,
        num_facts=1,
        num_continuations=1,
        num_short=1,
        num_generated=2,
        budget_entries=400,
    )
    result = run_demo(config, console=Console(file=io.StringIO(), width=100), progress=Console(file=io.StringIO()))
    content = json.loads((tmp_path / "demo" / "results.json").read_text(encoding="utf-8"))
    names = [method["name"] for method in content["comparison"]["methods"]]
    assert names == ["recency", "rag", "megacontext", "learned", "oracle"]
    assert [score.name for score in result.short.scores] == [*names, "full"]


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(MemoryExistsError, match="choose another folder with --out"):
        prepare_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "library").mkdir()
    (tmp_path / MARKER).write_text("What my project is about.", encoding="utf-8")
    with pytest.raises(MemoryExistsError, match="choose another folder with --out"):
        prepare_folder(tmp_path)
    assert (tmp_path / "library").is_dir()
    assert (tmp_path / MARKER).read_text(encoding="utf-8") == "What my project is about."


def test_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "demo")
    (tmp_path / "demo" / "library").mkdir()
    (tmp_path / "demo" / "results.json").write_text("{}", encoding="utf-8")
    prepare_folder(tmp_path / "demo")
    assert [path.name for path in (tmp_path / "demo").iterdir()] == [MARKER]


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (10, "budget is 10, but a history of 1,100,000 tokens with a question needs [0-9]+ entries: use a budget of"),
        (100_000, "budget is 100000, but reference-core was made for windows of at most 4096"),
        (0, "budget_entries is 0"),
    ],
)
def test_a_window_that_cannot_be_is_refused_before_an_earlier_demo_goes(budget: int, said: str, tmp_path: Path) -> None:
    prepare_folder(tmp_path / "demo")
    (tmp_path / "demo" / "library").mkdir()
    with pytest.raises(BudgetError, match=said):
        run_demo(DemoConfig(out=tmp_path / "demo", budget_entries=budget))
    assert (tmp_path / "demo" / "library").is_dir()


@pytest.mark.parametrize(("name", "value"), [("num_tokens", 10), ("num_facts", 0), ("num_short", 0)])
def test_a_demo_of_nothing_is_refused(name: str, value: int) -> None:
    with pytest.raises(InvalidValueError, match=f"{name} is {value}"):
        DemoConfig(**{name: value})  # type: ignore[arg-type]


def test_quotations_are_cut_around_the_value() -> None:
    line = "word " * 60 + "the code is 48213. " + "word " * 60
    assert "48213" in around(line, "48213")
    assert len(around(line, "48213")) <= 75
    assert around("short\n  line", "48213") == "short line"


@pytest.mark.parametrize(("num_tokens", "gister"), [(20_000, "extractive"), (10**7, "mean")])
def test_gists_are_made_the_cheap_way_where_the_dear_one_takes_too_long(num_tokens: int, gister: str) -> None:
    screen = io.StringIO()
    chosen = affordable_gister(
        DemoConfig(num_tokens=num_tokens),
        Pace(num_threads=1, tokens_per_second=9_000.0),
        DemoScreen(Console(file=screen, width=300), Console(file=io.StringIO())),
    )
    assert chosen == gister
    assert ("so gists are means here" in screen.getvalue()) == (gister == "mean")
