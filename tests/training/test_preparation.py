"""Preparation: what a folder holds after it, and that it is never prepared again."""

from __future__ import annotations

import importlib.util
import json
import lzma
from pathlib import Path
from random import Random

import pytest
from tests.training.conftest import make_text
from tests.training.test_babi import EXCERPT, write_stories
from tests.training.test_cleaning import TABLE, code
from tokenizers import Tokenizer

from megacontext.errors import InvalidValueError, UsageError
from megacontext.training import preparation
from megacontext.training.preparation import MOST_COUNTED_CHARS, add_stories, load_stores, num_tokens, prepare
from megacontext.training.source_files import refuse_other_sources


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small data folder; the standard library is left out, as it would take minutes."""
    monkeypatch.setattr(preparation, "standard_library_files", lambda *, held_out: iter(()))
    books = {
        f"books_{split}": [{"id": split, "text": make_text(Random(split), 60)}] for split in ("train", "validation")
    }
    pages = [{"id": f"page-{index}", "text": make_text(Random(index), 8)} for index in range(60)]
    for folder, name, records in (
        *(("books", name, some) for name, some in books.items()),
        ("knowledge", "docs", pages),
    ):
        (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
        with lzma.open(tmp_path / "data" / folder / f"{name}.jsonl.xz", "wt") as lines:
            lines.writelines(json.dumps(record) + "\n" for record in records)
    return tmp_path / "data"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Two packages; one is held out and holds a copy of a file of the other."""
    root = tmp_path / "site-packages"
    for name, text in {
        "alpha/one.py": code("one"),
        "alpha/table.py": TABLE,
        "beta/copy.py": code("one"),
        "rich/copy.py": code("one"),
        "rich/own.py": code("own"),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def texts_of(out: Path, side: str, domain: str) -> dict[str, str]:
    """The documents of a store by name."""
    tokenizer = Tokenizer.from_file(str(out / "tokenizer" / "tokenizer.json"))
    store = load_stores(out, side)[domain]
    ends = [*store.starts_D[1:], len(store.ids_N)]
    return {
        name: tokenizer.decode(store.ids_N[start:stop].tolist())
        for name, start, stop in zip(store.names, store.starts_D, ends, strict=True)
    }


def test_a_fresh_folder_is_cleaned_and_says_so(data: Path, packages: Path, tmp_path: Path) -> None:
    prepare(data, [packages], tmp_path / "out", vocab_size=400)
    assert texts_of(tmp_path / "out", "train", "code") == {"alpha": f"# file: alpha/one.py\n{code('one')}\n"}
    assert texts_of(tmp_path / "out", "held_out", "code") == {"rich": f"# file: rich/own.py\n{code('own')}\n"}
    told = json.loads((tmp_path / "out" / "preparation.json").read_text())
    removed = {
        side: {rule: one["documents"] for rule, one in told[side]["code"]["removed"].items()}
        for side in ("train", "held_out")
    }
    assert removed == {"train": {"table": 1, "duplicate": 1}, "held_out": {"in training text": 1}}
    assert told["train"]["books"]["kept"]["documents"] == 1
    assert told["train"]["code"]["removed"]["table"]["tokens"] > 100
    assert "babi" not in load_stores(tmp_path / "out", "train")


def test_a_folder_that_keeps_repeats_says_so_and_is_finished_so(data: Path, packages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(data, [packages], out, vocab_size=400, keeps_repeats=True)
    told = json.loads((out / "preparation.json").read_text())
    assert set(told["train"]["code"]["removed"]) == {"table"}
    assert "table" in told["rules"]
    assert not {"duplicate", "near-duplicate"} & set(told["rules"])
    kept = texts_of(out, "train", "code")
    assert list(kept) == ["alpha", "beta"]
    (out / "code_train.npz").unlink()
    prepare(data, [packages], out, vocab_size=400)
    assert texts_of(out, "train", "code") == kept
    (out / "code_train.npz").unlink()
    (out / "preparation.json").write_text(json.dumps(told | {"rules": 5}))
    with pytest.raises(InvalidValueError, match=r"preparation\.json: rules is 5, no table of the rules that text was"):
        prepare(data, [packages], out, vocab_size=400)


def test_a_tokenizer_can_be_given_and_another_one_is_refused(data: Path, packages: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    prepare(data, [packages], first, vocab_size=400)
    prepare(data, [packages], second, vocab_size=300, tokenizer=first / "tokenizer")
    vocabularies = [(out / "tokenizer" / "tokenizer.json").read_text() for out in (first, second)]
    assert vocabularies[0] == vocabularies[1]
    other = tmp_path / "other"
    prepare(data, [packages], other, vocab_size=300)
    with pytest.raises(InvalidValueError, match="holds another tokenizer"):
        prepare(data, [packages], other, vocab_size=300, tokenizer=first / "tokenizer")
    with pytest.raises(InvalidValueError, match=r"holds no tokenizer\.json"):
        prepare(data, [packages], tmp_path / "new", vocab_size=300, tokenizer=data)


def test_a_package_that_is_not_there_is_named_before_text_is_read(
    data: Path, packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "datasketch" else found(name))
    with pytest.raises(UsageError, match=r"needs the package datasketch, .*megacontext\[training\]"):
        prepare(data, [packages], tmp_path / "out", vocab_size=300)
    assert not (tmp_path / "out").exists()
    prepare(data, [packages], tmp_path / "out", vocab_size=300, cleaned=False)  # which compares nothing


def test_an_uncleaned_folder_holds_all_that_can_be_read(data: Path, packages: Path, tmp_path: Path) -> None:
    prepare(data, [packages], tmp_path / "out", vocab_size=400, cleaned=False)
    held = texts_of(tmp_path / "out", "train", "code")
    assert list(held) == ["alpha", "beta"]
    assert TABLE in held["alpha"]
    assert not (tmp_path / "out" / "preparation.json").exists()


def snapshot(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_prepared_folder_is_left_alone_whatever_the_data_became(data: Path, packages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(data, [packages], out, vocab_size=400, cleaned=False)
    before = snapshot(out)
    (packages / "alpha" / "two.py").write_text(code("two"))
    (data / "books" / "books_train.jsonl.xz").unlink()  # reading again would fail
    prepare(data, [packages], out, vocab_size=500)
    assert snapshot(out) == before


def test_a_run_that_goes_on_hears_of_other_data(data: Path, packages: Path, tmp_path: Path) -> None:
    out, moved = tmp_path / "out", tmp_path / "moved"
    prepare(data, [packages], out, vocab_size=400)
    refuse_other_sources(data, [], out)
    moved.mkdir()
    refuse_other_sources(moved, [], out)  # arrays are there, files are not needed
    books = data / "books" / "books_train.jsonl.xz"
    books.write_bytes(lzma.compress(b'{"id": "other", "text": "another book"}\n'))
    with pytest.raises(
        InvalidValueError, match=r"books_train.jsonl.xz is not what .*out was made of, .* --data .* in a new --out$"
    ):
        refuse_other_sources(data, [], out)
    (out / "sources.json").write_text("[1]")
    with pytest.raises(InvalidValueError, match=r"sources.json is no list of files"):
        refuse_other_sources(data, [], out)
    (out / "sources.json").unlink()
    refuse_other_sources(data, [], out)


def test_a_run_that_goes_on_hears_of_other_code(data: Path, packages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(data, [packages], out, vocab_size=400)
    refuse_other_sources(data, [packages], out)
    (packages / "alpha" / "two.py").write_text(code("another one"))
    with pytest.raises(
        InvalidValueError, match=r"alpha of --packages .* is not the code that .*out was made of, .* in a new --out$"
    ):
        refuse_other_sources(data, [packages], out)
    refuse_other_sources(data, [], out)
    (tmp_path / "none").mkdir()
    with pytest.raises(InvalidValueError, match=r"alpha and \d+ more of --packages .*none is not the code"):
        refuse_other_sources(data, [tmp_path / "none"], out)
    noted = json.loads((out / "sources.json").read_text())
    del noted["packages"]
    (out / "sources.json").write_text(json.dumps(noted))  # as folders of before are
    refuse_other_sources(data, [tmp_path / "none"], out)


def test_a_folder_begun_without_cleaning_is_finished_without_it(data: Path, packages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(data, [packages], out, vocab_size=400, cleaned=False)
    before = snapshot(out)
    (out / "code_train.npz").unlink()
    prepare(data, [packages], out, vocab_size=400)
    assert snapshot(out).keys() == before.keys()
    assert list(texts_of(out, "train", "code")) == ["alpha", "beta"]


def test_a_folder_begun_with_cleaning_is_finished_with_it(data: Path, packages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(data, [packages], out, vocab_size=400)
    (out / "code_train.npz").unlink()
    prepare(data, [packages], out, vocab_size=400)
    assert list(texts_of(out, "train", "code")) == ["alpha"]


def test_stories_come_with_a_new_folder_and_are_added_to_an_old_one_on_request(
    data: Path, packages: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prepare(data, [packages], out, vocab_size=400)
    before = snapshot(out)
    write_stories(data, [json.loads(line) for line in EXCERPT.read_text().splitlines()])
    prepare(data, [packages], out, vocab_size=400)
    assert snapshot(out) == before
    add_stories(data, out)
    after = snapshot(out)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"babi_train.npz", "babi_held_out.npz"}
    train, test = (set(load_stores(out, side)["babi"].names) for side in ("train", "held_out"))
    assert len(train) == 24
    assert len(test) == 12
    prepare(data, [packages], tmp_path / "new", vocab_size=400)
    assert set(load_stores(tmp_path / "new", "train")["babi"].names) == train


def test_tokens_of_little_text_are_counted_and_of_much_estimated(tokenizer: Tokenizer) -> None:
    texts = [make_text(Random(index), 40) for index in range(20)]
    exact = sum(len(tokenizer.encode(text).ids) for text in texts)
    assert num_tokens(tokenizer, texts) == exact
    copies = MOST_COUNTED_CHARS // sum(map(len, texts)) + 1
    assert num_tokens(tokenizer, texts * copies) == pytest.approx(exact * copies, rel=0.02)
    assert num_tokens(tokenizer, []) == 0


def test_what_fails_leaves_nothing(data: Path, packages: Path, tmp_path: Path) -> None:
    out = tmp_path / "run" / "data"
    short = {"books": 10**9}
    with pytest.raises(
        InvalidValueError, match=r"books_train\.jsonl\.xz gives [\d,]+ tokens .* need 1,000,000,000; give"
    ):
        prepare(data, [packages], out, vocab_size=400, least_tokens=short)
    assert not (tmp_path / "run").exists()
    prepare(data, [packages], out, vocab_size=400, least_tokens={"books": 100})
    before = snapshot(out)
    (out / "code_train.npz").unlink()
    with pytest.raises(InvalidValueError, match="need 1,000,000,000"):
        prepare(data, [packages], out, vocab_size=400, least_tokens=short)
    assert snapshot(out).keys() == before.keys() - {"code_train.npz"}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["data"]
    prepare(data, [packages], out, vocab_size=400)
    assert snapshot(out) == before


def test_a_broken_page_is_said_before_anything_is_cleaned(
    data: Path, packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "clean", lambda documents, runs: pytest.fail("cleaned already"))
    with lzma.open(data / "knowledge" / "docs.jsonl.xz", "at") as lines:
        lines.write('{"id": "last"\n')
    with pytest.raises(InvalidValueError, match=r"docs\.jsonl\.xz, line 61 is no JSON"):
        prepare(data, [packages], tmp_path / "out", vocab_size=400)
    assert not (tmp_path / "out").exists()


def test_a_folder_is_not_prepared_where_a_file_is(data: Path, packages: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(InvalidValueError, match=r"file is a file; give a folder for token arrays, .* with --out"):
            prepare(data, [packages], out, vocab_size=400)


def test_arrays_without_their_tokenizer_are_not_mixed_with_another(data: Path, packages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(data, [packages], out, vocab_size=400)
    (out / "tokenizer" / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    before = snapshot(out)
    with pytest.raises(InvalidValueError, match=r"out has token arrays, but lacks tokenizer/tokenizer\.json"):
        prepare(data, [packages], out, vocab_size=400)
    assert snapshot(out) == before
    prepare(data, [packages], out, vocab_size=400, tokenizer=tmp_path)
    assert snapshot(out).keys() - before.keys() == {"tokenizer/tokenizer.json"}
