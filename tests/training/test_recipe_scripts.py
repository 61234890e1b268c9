"""Scripts of recipes on folders that hold nothing, or not what is needed: one line, exit code 1, nothing written."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from megacontext.bases.registry import BUNDLED_FOLDER
from megacontext.training.corpus import Document
from megacontext.training.preparation import DOMAINS, SIDES, save_tokenizer
from megacontext.training.tokens import encode_documents

RECIPES = Path(__file__).parents[2] / "recipes"
Said = Callable[..., str]

NEEDS = {
    "core/auxiliary.py": ("--run", "--out"),
    "core/average.py": ("--before", "--after", "--model"),
    "core/card.py": ("--model",),
    "core/cleaning.py": ("--cleaned", "--uncleaned"),
    "core/curves.py": ("--runs", "--out"),
    "core/evaluate.py": ("--out", "--model"),
    "core/export.py": ("--out", "--model"),
    "core/lens.py": ("--out", "--model"),
    "core/positions.py": ("--out", "--model"),
    "core/prepare.py": ("--data", "--out"),
    "core/scaling.py": ("--run", "--out"),
    "core/seeds.py": ("--models", "--json"),
    "core/shapes.py": ("--runs",),
    "core/train.py": ("--data", "--out"),
    "reference/card.py": ("--model",),
    "reference/evaluate.py": ("--out", "--model"),
    "reference/export.py": ("--out", "--model"),
    "reference/train.py": ("--data", "--out"),
}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[Said]:
    """Run a script that must fail; the line that it ends with, which ``sys.exit`` prints with exit code 1."""
    monkeypatch.syspath_prepend(RECIPES / "core")

    def run(script: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(RECIPES / script), run_name="__main__")
        line = caught.value.code
        assert isinstance(line, str), f"{script} exits with {line}"
        assert line.startswith(f"{Path(script).name}: ")
        assert "\n" not in line
        return line

    yield run
    torch.set_num_threads(1)


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_every_script_is_here() -> None:
    assert sorted(NEEDS) == sorted(str(path.relative_to(RECIPES)) for path in RECIPES.glob("*/*.py"))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # of torch, where it compiles
@pytest.mark.parametrize("script", NEEDS)
def test_missing_and_empty_folders_are_one_line(script: str, said: Said, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name in ("gone", "empty", "file"):
        arguments = [part for option in NEEDS[script] for part in (option, tmp_path / name)]
        assert str(tmp_path / name) in said(script, *arguments)
    assert everything(tmp_path) == [tmp_path / "empty", tmp_path / "file"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED_FOLDER / "reference-core", tmp_path / "model"))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda m: (m / "evaluation.json").unlink(), "evaluation.json does not exist; run `recipes/core/evaluate.py"),
        (lambda m: (m / "evaluation.json").write_text("{"), "evaluation.json is no JSON ("),
        (lambda m: (m / "evaluation.json").write_text("[]"), "evaluation.json holds no figures; remove it and run"),
        (
            lambda m: (m / "evaluation.json").write_text('{"run": {}}'),
            "evaluation.json lacks plain, before, recall;",
        ),
        (
            lambda m: lose(m / "evaluation.json", "plain"),
            "evaluation.json is not laid out as the card needs it (KeyErr",
        ),
        (lambda m: lose(m / "lens.json", "calibration", whole=True), "lens.json is not laid out as the card needs it"),
        (
            lambda m: tell(m / "evaluation.json", ("plain", "validation", "books", "bits_per_byte"), float("nan")),
            "evaluation.json: plain/validation/books/bits_per_byte is nan, which is no figure for the card; measure",
        ),
        (
            lambda m: tell(m / "evaluation.json", ("plain", "validation", "books", "bits_per_byte"), 10**400),
            "evaluation.json is not laid out as the card needs it (OverflowError",
        ),
        (lambda m: (m / "positions.json").write_text("no"), "positions.json is no JSON ("),
        (lambda m: (m / "README.md").write_text("# A model\n"), "README.md: the markers are missing"),
    ],
)
def test_a_card_is_not_written_from_half_of_the_figures(
    damage: Callable[[Path], object], line: str, said: Said, model: Path
) -> None:
    damage(model)
    card = model / "README.md"
    before = card.read_bytes() if card.exists() else None
    assert line in said("core/card.py", "--model", model)
    assert (card.read_bytes() if card.exists() else None) == before


def test_a_card_is_begun_where_there_is_none(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = model / "README.md"
    shipped = card.read_text()
    card.unlink()
    monkeypatch.syspath_prepend(RECIPES / "core")
    monkeypatch.setattr(sys, "argv", ["card.py", "--model", str(model)])
    runpy.run_path(str(RECIPES / "core" / "card.py"), run_name="__main__")
    begun = card.read_text()
    assert begun.startswith("# model\n\nTo be said here: ")
    figures = begun[begun.index("<!-- figures: begin") :].removesuffix("\n")
    assert figures in shipped


def test_a_card_says_where_nothing_was_asked(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = {"accuracy": None, "standard_error": None, "n": 0}
    for way, kind in (("full", ()), ("512/gists/real", ("by_kind", "alias"))):
        for name, figure in (("exact", nothing), ("answer_nats", None)):
            tell(model / "evaluation.json", ("recall", "puzzles", way, *kind, name), figure)
    monkeypatch.setattr(sys, "argv", ["card.py", "--model", str(model)])
    runpy.run_path(str(RECIPES / "core" / "card.py"), run_name="__main__")
    lines = (model / "README.md").read_text().splitlines()
    (said,) = (line for line in lines if line.startswith("| full | - (n = 0) |"))
    assert "None" not in said
    assert any(line.startswith("| alias | taught |") and " |  | " in line for line in lines)


def test_logs_of_several_seeds_become_one_picture(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / name for name in ("first", "second")]
    for run in runs:
        run.mkdir()
        lines = [{"step": step, "tokens": 100 * step, "text/plain_2048": 4 / step} for step in (1, 2)]
        (run / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    picture = tmp_path / "curves.png"
    monkeypatch.setattr(sys, "argv", ["curves.py", *(f"--runs={run}" for run in runs), f"--out={picture}"])
    runpy.run_path(str(RECIPES / "core" / "curves.py"), run_name="__main__")
    assert capsys.readouterr().out == f"{picture}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")
    laws = tmp_path / "laws.json"
    for run, factor in zip(runs, (0.5, 0.6), strict=True):
        figures = [(tokens, 0.1 + factor * (tokens / 1e6) ** -0.5) for tokens in range(10**6, 41 * 10**6, 10**6)]
        lines = [{"step": step, "tokens": t, "delta_nll_64/level_1": v} for step, (t, v) in enumerate(figures)]
        (run / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    arguments = ["curves.py", *(f"--runs={run}" for run in runs), f"--out={picture}", f"--laws={laws}"]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(RECIPES / "core" / "curves.py"), run_name="__main__")
    found = json.loads(laws.read_text())
    assert list(found) == ["delta-NLL@64, level 1"], "of what was logged"
    law = found["delta-NLL@64, level 1"]
    assert [law[name] for name in ("floor", "factor", "power")] == pytest.approx([0.1, 0.5, 0.5], abs=0.01)
    assert law["mean_distance"][0] < 0.001 < law["mean_distance"][1] == pytest.approx(0.03, abs=0.01)
    assert law["foretold"]["160000000"] == pytest.approx(0.1 + 0.5 * 160**-0.5, abs=0.002)
    capsys.readouterr()
    assert "notes.txt, which is no picture" in said(
        "core/curves.py", "--runs", *runs, f"--out={tmp_path / 'notes.txt'}"
    )
    assert "gone is no folder" in said("core/curves.py", "--runs", *runs, f"--out={tmp_path / 'gone' / 'a.png'}")
    assert "--runs is given 4 times" in said("core/curves.py", *(f"--runs={runs[0]}",) * 4, f"--out={picture}")
    (runs[1] / "log.jsonl").write_text("{}\n")
    assert f"{runs[1] / 'log.jsonl'} line 1 is no figures" in said("core/curves.py", "--runs", *runs, "--out", picture)


def test_seeds_stand_side_by_side(
    said: Said, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = json.loads((model / "evaluation.json").read_text())
    figures.pop("apart", None)
    told, models = figures["recall"]["codes"]["128/gists/real"], []
    for seed, closure in enumerate((0.8, 0.9, 0.85)):
        told["closure"] = closure
        models.append(tmp_path / f"seed_{seed}")
        models[-1].mkdir()
        (models[-1] / "evaluation.json").write_text(json.dumps(figures))
    arguments = [str(part) for part in ("seeds.py", "--models", *models, "--json", tmp_path / "seeds.json")]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(RECIPES / "core" / "seeds.py"), run_name="__main__")
    rows = {row["measure"]: row for row in json.loads((tmp_path / "seeds.json").read_text())["measures"]}
    assert not any("trained apart" in name for name in rows), "which was not measured"
    row = rows["codes: closure by gists alone at 1/16"]
    assert row["values"] == [0.8, 0.9, 0.85]
    assert row["mean"] == 0.85
    assert row["deviation"] == 0.05
    assert row["interval"] == [pytest.approx(0.85 + sign * 4.3027 * 0.05 / 3**0.5, abs=1e-4) for sign in (-1, 1)]
    assert "seed_2" in capsys.readouterr().out
    files = [shutil.copy(folder / "evaluation.json", tmp_path / f"{folder.name}.json") for folder in models]
    monkeypatch.setattr(sys, "argv", ["seeds.py", "--models", *map(str, files), "--json", str(tmp_path / "again.json")])
    runpy.run_path(str(RECIPES / "core" / "seeds.py"), run_name="__main__")
    assert json.loads((tmp_path / "again.json").read_text())["measures"] == list(rows.values()), "of files alone"
    capsys.readouterr()
    told["closure"] = float("nan")
    (tmp_path / "seed_1.json").write_text(json.dumps(figures))
    line = said("core/seeds.py", "--models", *files, "--json", tmp_path / "one.json")
    assert "seed_1.json has no figure for 'codes: closure by gists alone at 1/16' (ValueError: it is nan)" in line
    told["closure"] = 0.85
    twice = said("core/seeds.py", "--models", models[0], models[0], "--json", tmp_path / "one.json")
    assert "--models names a folder twice" in twice
    assert "one seed" in said("core/seeds.py", "--models", models[0], "--json", tmp_path / "one.json")
    for folder in models:
        apart = {"apart": figures["recall"] | {"questions": "one", "against": "other"}}
        (folder / "evaluation.json").write_text(json.dumps(figures | apart))
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(RECIPES / "core" / "seeds.py"), run_name="__main__")
    rows = {row["measure"]: row for row in json.loads((tmp_path / "seeds.json").read_text())["measures"]}
    told = figures["recall"]["puzzles"]["512/gists/real"]["closure_of_plain"]
    assert rows["puzzles: closure against a plain model trained apart at 1/4"]["mean"] == pytest.approx(told)
    capsys.readouterr()
    other = figures["recall"] | {"questions": "one", "against": "another"}
    (models[1] / "evaluation.json").write_text(json.dumps(figures | {"apart": other}))
    assert "against different plain models" in said("core/seeds.py", *arguments[1:])
    figures["recall"]["questions"] = "0123456789abcdef"
    (models[1] / "evaluation.json").write_text(json.dumps(figures))
    line = said("core/seeds.py", "--models", *models, "--json", tmp_path / "two.json")
    assert "'recall' of the models was measured on different questions" in line
    assert "evaluate.py --only recall` for each" in line
    assert f"{models[1]} 0123456789ab" in line
    (models[1] / "evaluation.json").write_text(json.dumps(figures | {"recall": [1]}))
    line = said("core/seeds.py", "--models", *models, "--json", tmp_path / "two.json")
    assert "evaluation.json: recall is list, no table of figures" in line
    for part, told, reason in (
        ("rows", [1], "rows of recall is [1]; run `recipes/core/evaluate.py` again"),
        ("questions", ["a"], "questions of recall is ['a']; run `recipes/core/evaluate.py` again"),
    ):
        recall = {"recall": figures["recall"] | {part: told}}
        (models[1] / "evaluation.json").write_text(json.dumps(figures | recall))
        assert reason in said("core/seeds.py", "--models", *models, "--json", tmp_path / "two.json")
    lose(models[1] / "evaluation.json", "recall")
    line = said("core/seeds.py", "--models", *models, "--json", tmp_path / "two.json")
    assert "seed_1" in line
    assert not (tmp_path / "two.json").exists()


@pytest.mark.parametrize(
    ("at", "figure", "line"),
    [
        (("text", "books"), 3, "'books, share of far words, gists 32:1 alone' (TypeError: "),
        (("text",), {}, "'books, share of far words, gists 32:1 alone' (KeyError: 'books')"),
        (
            ("plain", "recall", "codes", "accuracy"),
            True,
            "'codes from full context, the core' (ValueError: it is True)",
        ),
        (("plain", "recall", "codes", "accuracy"), 10**400, "'codes from full context, the core' (OverflowError: "),
    ],
    ids=["no table", "nothing", "no number", "enormous"],
)
def test_seeds_without_a_figure_are_not_compared(
    at: Sequence[str], figure: object, line: str, said: Said, model: Path, tmp_path: Path
) -> None:
    (model / "lens.json").unlink()
    other = Path(shutil.copytree(model, tmp_path / "other"))
    for path in (model, other):
        tell(path / "evaluation.json", ("text", "rows"), None)
    tell(other / "evaluation.json", at, figure)
    assert f"other/evaluation.json has no figure for {line}" in said(
        "core/seeds.py", "--models", model, other, "--json", tmp_path / "a"
    )
    assert not (tmp_path / "a").exists()


def test_figures_of_seeds_are_not_written_over(said: Said, model: Path, tmp_path: Path) -> None:
    other = Path(shutil.copy(model / "evaluation.json", tmp_path / "other.json"))
    before = {path: path.read_bytes() for path in (other, model / "evaluation.json", model / "lens.json")}
    for path in before:
        line = said("core/seeds.py", "--models", model, other, "--json", path.parent / "." / path.name)
        assert f"--json {path} is that of a model's figures, which it would replace" in line
    assert {path: path.read_bytes() for path in before} == before
    assert f"--json {model} is a folder; give a file" in said(
        "core/seeds.py", "--models", model, other, "--json", model
    )


def test_the_lens_is_placed_between_words_and_oracle() -> None:
    def nats(value: float) -> dict[str, dict[str, float]]:
        return {kind: {"nats": value, "standard_error": 0.05} for kind in ("all", "far")}

    ways = {"lexical, last 8, every 8": nats(-0.1), "oracle, every 8": nats(-0.5), "recent 512": nats(0.0)}
    pairs = {
        "lens, every 8 - lexical, last 8, every 8": nats(-0.1),
        "lens, every 8, and gists - recent 512": nats(-1.0),
    }
    gap_rows = runpy.run_path(str(RECIPES / "core" / "card.py"))["gap_rows"]
    assert gap_rows({"ways": ways, "pairs": pairs}) == [("from lexical, last 8, every 8", *["+0.25 ± 0.12"] * 2)]
    ways["oracle, every 8"] = ways["lexical, last 8, every 8"]  # there is no way to go
    assert gap_rows({"ways": ways, "pairs": pairs}) == [("from lexical, last 8, every 8", "", "")]


@pytest.mark.parametrize(("recipe", "name"), [("core", "reference-core"), ("reference", "reference-plain")])
def test_the_bundled_cards_say_what_was_measured(
    recipe: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(BUNDLED_FOLDER / name, tmp_path / "model"))
    monkeypatch.setattr(sys, "argv", ["card.py", "--model", str(model)])
    runpy.run_path(str(RECIPES / recipe / "card.py"), run_name="__main__")
    assert (model / "README.md").read_text() == (BUNDLED_FOLDER / name / "README.md").read_text()


def tell(path: Path, at: Sequence[str], figure: object) -> None:
    """With another figure at a place."""
    figures = part = json.loads(path.read_text())
    for name in at[:-1]:
        part = part[name]
    part[at[-1]] = figure
    path.write_text(json.dumps(figures))


def lose(path: Path, part: str, *, whole: bool = False) -> None:
    """Without a part, or without what is in it."""
    figures = json.loads(path.read_text())
    if whole:
        del figures[part]
    else:
        figures[part] = {}
    path.write_text(json.dumps(figures))


@pytest.fixture
def run(tokenizer: Tokenizer, documents: list[Document], tmp_path: Path) -> Path:
    """Token arrays of a run, a domain empty on the held-out side."""
    data = tmp_path / "run" / "data"
    save_tokenizer(tokenizer, data / "tokenizer")
    for domain in DOMAINS:
        for side in SIDES:
            some = [] if (domain, side) == ("knowledge", "held_out") else documents[:1]
            encode_documents(tokenizer, some).save(data / f"{domain}_{side}.npz")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("script", "arguments", "reason"),
    [
        ("core/scaling.py", ("--tokens", 0), "--tokens is 0.0; choose a finite number of at least 4000"),
        ("core/scaling.py", ("--seeds", 0), "--seeds is 0; choose a whole number of at least 1"),
        ("core/auxiliary.py", ("--weight", "nan"), "--weight is nan; choose a finite number above 0"),
        ("core/auxiliary.py", ("--only-seed", 3), "--only-seed is 3; choose a whole number from 0 to 2"),
    ],
)
def test_what_no_study_can_use_is_refused_before_it_trains(
    script: str, arguments: tuple[object, ...], reason: str, said: Said, tmp_path: Path
) -> None:
    assert reason in said(script, "--run", tmp_path / "none", "--out", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_arms_that_cannot_be_compared_are_refused(said: Said, run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    both = ("--cleaned", run, "--uncleaned", other)
    assert "held_out.npz gives 0 tokens of knowledge to train on" in said("core/cleaning.py", *both)
    assert "--steps is 0; choose a whole number of at least 1" in said("core/cleaning.py", *both, "--steps", "0")
    assert "--seeds is 1; choose a whole number of at least 2" in said("core/cleaning.py", *both, "--seeds", "1")
    assert "gone.toml is no file" in said("core/cleaning.py", *both, "--config", tmp_path / "gone.toml")
    (other / "data" / "code_train.npz").unlink()
    assert "other/data holds no code_train.npz" in said("core/cleaning.py", *both)
    (other / "data" / "tokenizer" / "tokenizer.json").write_text("{}")
    assert "tokenizer.json is no tokenizer (" in said("core/cleaning.py", *both)


def test_a_run_without_text_to_judge_by_is_refused(
    said: Said, run: Path, model: Path, documents: list[Document]
) -> None:
    shutil.rmtree(run / "data" / "tokenizer")  # another one than the model's
    call = ("core/positions.py", "--out", run, "--model", model)
    config = run / "run.toml"
    config.write_text("[shares]\nknowledge = 1.0\n")
    assert "[shares] gives books none, and held-out books and code judge" in said(*call, "--config", config)
    (run / "data" / "code_held_out.npz").write_bytes((run / "data" / "knowledge_held_out.npz").read_bytes())
    assert "holds no held-out code to judge by" in said(*call)


def test_figures_of_a_run_that_says_nothing_are_not_measured(said: Said, run: Path, model: Path) -> None:
    shutil.rmtree(run / "data" / "tokenizer")  # another one than the model's
    (model / "evaluation.json").unlink()  # where there are figures, what they tell of the run stays
    line = said("core/evaluate.py", "--out", run, "--model", model, "--plain", "reference-plain", "--rows", "2")
    assert "run/checkpoint.pt is no file" in line


@pytest.mark.parametrize("script", ["evaluate", "lens", "positions"])
def test_a_model_is_not_measured_on_text_of_another_tokenizer(script: str, said: Said, run: Path, model: Path) -> None:
    before = (model / "evaluation.json").read_bytes()
    line = said(f"core/{script}.py", "--out", run, "--model", model)
    assert (
        "run/data/tokenizer holds another tokenizer (of 512 tokens) than the model (of 4,096); give the --out" in line
    )
    assert (model / "evaluation.json").read_bytes() == before


@pytest.mark.parametrize("script", ["evaluate", "lens", "positions"])
def test_a_core_is_not_measured_on_longer_rows_than_it_takes(script: str, said: Said, run: Path, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["max_position_embeddings"] = config["core"]["max_positions"] = config["learned_positions"] = 512
    (model / "config.json").write_text(json.dumps(config))
    line = said(f"core/{script}.py", "--out", run, "--model", model)
    assert "model takes windows of 512 tokens at most (max_positions), but is measured on rows of 2,048;" in line


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"held_out": 5, "train": 5}, "AttributeError: "),
        ({"held_out": {"books": {"kept": 3}}, "train": {}}, "KeyError: 'removed'"),
        ({"held_out": {"books": {"kept": 3, "removed": {}}}, "train": {}}, "TypeError: "),
    ],
)
def test_what_cleaning_cannot_have_told_is_not_written_over(told: object, reason: str, said: Said, run: Path) -> None:
    report = run / "data" / "preparation.json"
    report.write_text(json.dumps(told))
    line = said("core/prepare.py", "--data", run, "--out", run)
    assert f"preparation.json is not laid out as prepare.py needs it ({reason}" in line
    assert line.endswith("; put back the one that was written there, or give a new --out")
    assert json.loads(report.read_text()) == told


def test_the_rows_of_a_prepared_folder_are_told_beside_what_was_removed(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"kept": {"documents": 12, "tokens": 900}, "removed": {"table": {"documents": 1, "tokens": 100}}}
    told = {"rules": {}, "held_out": {}, "train": {"books": counts}}
    (tiny_run / "data" / "preparation.json").write_text(json.dumps(told))
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--data", str(tiny_run), "--out", str(tiny_run), "--rows", "1"])
    runpy.run_path(str(RECIPES / "core" / "prepare.py"), run_name="__main__")
    found = json.loads((tiny_run / "data" / "preparation.json").read_text())
    assert {name: found[name] for name in told} == told
    assert "plain_2048" in found["packing"]
    assert "10.00%" in capsys.readouterr().out
