"""``megacontext train``: what it refuses, in one line, with nothing left behind."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import pytest
from tests.cli.train.conftest import BOOKS, CONFIG, PAGES

from megacontext.training import core_recipe
from megacontext.training.tokens import encode_documents, read_tokenizer


def write_records(path, *lines):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(lzma.compress("".join(f"{line}\n" for line in lines).encode()))


RECORD = '{"id": "page", "text": "The river ran past the mill. It was old."}'
BROKEN_DATA = {
    "no JSON": (lambda text: write_records(text / PAGES, RECORD, '{"id": '), 2, "PAGES, line 2 is no JSON"),
    "no text": (lambda text: write_records(text / PAGES, '{"id": "x"}'), 2, "PAGES, line 1: the record has no 'text'"),
    "no xz": (lambda text: (text / PAGES).write_text(RECORD), 1, "PAGES is no whole xz file"),
    "cut off": (lambda text: (text / PAGES).write_bytes((text / PAGES).read_bytes()[:-9]), 1, "PAGES is cut off or"),
    "no books": (
        lambda text: write_records(text / BOOKS),
        2,
        "BOOKS gives 0 tokens of books to train on, but rows need 66",
    ),
    "an empty folder": (lambda text: (text / BOOKS).unlink(), 2, "BOOKS does not exist; give the folder that holds"),
}


@pytest.mark.parametrize("case", BROKEN_DATA)
def test_broken_data_leaves_nothing_behind(train, place, case):
    text = place / "text"
    for name in (BOOKS, "books/books_validation.jsonl.xz", PAGES):
        write_records(text / name, RECORD)
    damage, code, said = BROKEN_DATA[case]
    damage(text)
    result = train("base.toml", "new")
    said = said.replace("PAGES", str(text / PAGES)).replace("BOOKS", str(text / BOOKS))
    assert (result.code, result.err.count("\n")) == (code, 1)
    assert result.err.startswith(f"megacontext: {said}")
    assert not (place / "new").exists()


def test_broken_token_arrays_are_named_and_made_again(train, place, prepared):
    (place / "base" / "data").unlink()
    data = Path(shutil.copytree(prepared, place / "base" / "data"))
    path = data / "books_train.npz"
    content = path.read_bytes()
    for damaged in (content[:-100], content[:5000] + bytes([content[5000] ^ 1]) + content[5001:], b""):
        path.write_bytes(damaged)
        result = train("base.toml", "base")
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert f"{path} is cut off or damaged (" in result.err
        assert result.err.endswith("; remove it, and the next run prepares it again\n")
    (data / "tokenizer" / "tokenizer.json").write_text("{")
    result = train("base.toml", "base")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "tokenizer.json is no tokenizer (" in result.err
    assert [path.name for path in (place / "base").iterdir()] == ["data"]


def test_too_little_prepared_text_is_said(train, place, prepared):
    (place / "base" / "data").unlink()
    data = Path(shutil.copytree(prepared, place / "base" / "data"))
    encode_documents(read_tokenizer(data / "tokenizer"), []).save(data / "books_train.npz")
    result = train("base.toml", "base")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert (
        "books_train.npz gives 0 tokens of books to train on, but rows need 66; give more text and a new" in result.err
    )


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (("num_steps", "num_step"), 2, "[loop] has an unknown key 'num_step'; did you mean 'num_steps'?"),
        (("rows = 2", "rows = 0"), 2, "batch 'short': rows is 0; choose a whole number from 1 to 65536"),
        (("rows = 2", "rows = 100000"), 2, "batch 'short': rows is 100000; choose a whole number from 1 to 65536"),
        (("[optim]", "[optim]\nhead_rate = 1e300"), 2, "head_rate is 1e+300; choose a finite number of at least 0 and"),
        (
            ("[loop]", "[loop]\nmicro_batches = 100000"),
            2,
            "micro_batches is 100000; choose a whole number from 1 to 1024",
        ),
        (("vocab_size = 512", "vocab_size = 300"), 2, "has 512 tokens, but [model] vocab_size of"),
        (("[optim]", "[optim"), 2, "is not TOML"),
        (
            ("length = 64, mix = { plain", "length = 8, mix = { recall"),
            2,
            "base.toml: stage 'only', batch 'short': no row",
        ),
    ],
)
def test_bad_configurations_leave_nothing_behind(train, place, change, code, said):
    (place / "base.toml").write_text(CONFIG.replace(*change))
    result = train("base.toml", "base")
    assert result.code == code
    assert said in result.err
    assert result.err.count("\n") == 1
    assert [path.name for path in (place / "base").iterdir()] == ["data"]


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_vocabulary_beyond_the_limit_is_refused_before_nets_are_built(train, place, monkeypatch, more):
    monkeypatch.setattr(core_recipe, "build_core", lambda *args, **options: pytest.fail("there are nets"))
    (place / "base.toml").write_text(CONFIG.replace("vocab_size = 512", "vocab_size = 99999999"))
    result = train("base.toml", "base", *more)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "base.toml: [model] vocab_size is 99999999; choose a whole number from 258" in result.err


def test_wrong_usage(megacontext, train, place):
    config = place / "base.toml"
    assert "--data is missing" in megacontext("train", config, "--out", place / "base").err
    assert "--out is missing" in megacontext("train", config, "--data", place / "text").err
    assert (
        "gone.toml is no file; give a configuration, or the name of one: base, base_m,"
        in train("gone.toml", "base").err
    )
    assert "unknown tracker 'comet'" in train("base.toml", "base", "--track", "comet").err
    assert ": --minutes is 0.0; choose a finite number above 0\n" in train("base.toml", "base", "--minutes", "0").err
    gone = train("base.toml", "base", "--start", place / "gone.pt").err
    assert "gone.pt is neither a file nor a folder; give the checkpoint.pt of a run, the folder of a model, or" in gone
    assert "bundled one: reference, reference-core, reference-plain" in gone
    (place / "file").touch()
    for name in ("file", "file/below"):
        assert "file is a file; give a folder" in train("base.toml", name).err
    for name in ("config.json", "core.safetensors"):
        model = place / f"model_{name}"
        model.mkdir()
        (model / name).touch()
        refused = train("base.toml", model.name)
        assert f"{model} holds a model ({name}); give a folder for the run, new or empty" in refused.err
        assert [path.name for path in model.iterdir()] == [name]
    assert "gone is no folder" in train("base.toml", "base", "--packages", place / "gone").err
    both = megacontext("train", config, place / "memory.toml", "--data", place / "text", "--out", place / "base")
    assert "2 configurations are given; train one at a time, or add --dry-run" in both.err
    assert [path.name for path in (place / "base").iterdir()] == ["data"]


def test_a_dry_run_compares_configurations_and_writes_nothing(megacontext, place):
    configs = (place / "base.toml", place / "memory.toml")
    result = megacontext("train", *configs, "--dry-run", "--eager")
    assert result.code == 0, result.err
    for word in ("core", "GistNet", "reconstructor", "optimiser", "kept", "2 x 64", "2 x 192", "hours"):
        assert word in result.out
    assert "measured on this machine in eager steps of one thread" in " ".join(result.out.split())
    data = megacontext("train", *configs, "--dry-run", "--eager", "--json").data
    assert set(data) == {str(config) for config in configs}
    base, memory = (data[str(config)] for config in configs)
    assert set(base["cost"]["weights"]) == {"core"}
    assert memory["cost"]["weights"]["core"] == base["cost"]["weights"]["core"]
    assert base["total_bytes"] > base["kept_bytes"] > 0
    assert sorted(path.name for path in (place / "base").iterdir()) == ["data"]


@pytest.mark.parametrize(
    "given", [("--track", "wandb"), ("--seed", "1"), ("--minutes", "1"), ("--resume",), ("--start", "reference-core")]
)
def test_a_dry_run_takes_nothing_that_it_does_not_read(megacontext, place, given):
    refused = megacontext("train", place / "base.toml", "--dry-run", *given)
    assert refused.code == 2
    assert f"{given[0]} changes nothing of a dry run, which is of all steps; leave it out" in refused.err


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ("books = -1.0", "[shares] books is -1"),
        ("book = 1.0", "[shares] has an unknown key 'book'; did you mean 'books'?"),
        ("books = 0.0", "[shares] are all zero"),
        ('books = "much"', "[shares] books is 'much'; choose a finite number of at least 0"),
        (None, "has no table [shares]; add it"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(megacontext, train, place, shares, said):
    bad = place / "bad.toml"
    bad.write_text(CONFIG.replace("[shares]\nbooks = 1.0", "" if shares is None else f"[shares]\n{shares}"))
    dry, real = megacontext("train", place / "base.toml", bad, "--dry-run", "--eager"), train("bad.toml", "base")
    assert dry.code == real.code == 2
    assert said in dry.err
    assert dry.err.splitlines()[-1] == real.err.splitlines()[-1]
