"""``megacontext train``: a small run from the command line, resumed, started from, and everything it refuses."""

from __future__ import annotations

import hashlib
import json
import lzma
import random
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from megacontext.training.bundled import BUNDLED, config_path
from megacontext.training.corpus import Document
from megacontext.training.preparation import DOMAINS, save_tokenizer
from megacontext.training.recall import Asking, draw_facts
from megacontext.training.settings import read_settings
from megacontext.training.tokens import encode_documents, read_tokenizer, train_tokenizer

ROOT = Path(__file__).parents[2]
CONFIG = """
[model]
vocab_size = 512
width = 32
num_layers = 1
num_heads = 2
num_kv_heads = 1
head_dim = 16
mlp_width = 32
rotary_dims = 8
max_positions = 256
[optim]
[loop]
num_steps = 4
warmup_steps = 1
log_every = 1
checkpoint_every = 1
peak_tflops = 0.001
[shares]
books = 1.0
[[stage]]
name = "only"
batches = [{ name = "short", share = 1.0, rows = 2, length = 64, mix = { plain = 1.0 } }]
"""
MEMORY = """
extends = "base.toml"
[gist_net]
width = 32
num_layers = 1
num_heads = 2
mlp_width = 32
[memory]
reconstructor_width = 32
[[stage]]
name = "gists"
batches = [{ name = "aligned", share = 1.0, rows = 2, length = 192, mix = { aligned = 1.0 }, \
gists = { shapes = [[32, 1]], num_tail = 2 } }]
"""

BOOKS, PAGES = "books/books_train.jsonl.xz", "knowledge/docs.jsonl.xz"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Token arrays as `prepare` leaves them, of text made on the spot."""
    draw = random.Random(0)
    facts = [fact.statement(draw) + "".join(fact.question(draw)) for fact in draw_facts(draw, 300, Asking())]
    text = " ".join(draw.choices(["the river ran past.", "a mill stood.", *facts], k=2_000))
    tokenizer = train_tokenizer([text, *facts], vocab_size=512)
    folder = tmp_path_factory.mktemp("prepared") / "data"
    save_tokenizer(tokenizer, folder / "tokenizer")
    for domain in DOMAINS:
        for side in ("train", "held_out"):
            store = encode_documents(tokenizer, [Document(name="page", domain=domain, text=text)])
            store.save(folder / f"{domain}_{side}.npz")
    return folder


@pytest.fixture
def place(tmp_path, prepared):
    """A folder with both configurations, empty data, and two outputs that share prepared arrays."""
    (tmp_path / "base.toml").write_text(CONFIG)
    (tmp_path / "memory.toml").write_text(MEMORY)
    (tmp_path / "text").mkdir()
    for out in ("base", "memory"):
        (tmp_path / out).mkdir()
        (tmp_path / out / "data").symlink_to(prepared)
    return tmp_path


@pytest.fixture
def train(megacontext, place):
    def call(config, out, *more):
        return megacontext("train", place / config, "--data", place / "text", "--out", place / out, "--eager", *more)

    return call


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def test_a_base_then_its_memory(train, place):
    result = train("base.toml", "base")
    assert result.code == 0, result.err
    assert result.out.startswith("step 4, 512 tokens, ")
    assert str(place / "base" / "checkpoint.pt") in result.out
    records = [json.loads(line) for line in (place / "base" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert {"nll", "tokens_per_second", "mfu", "gist_gate/layer_0"} <= set(records[-1])
    start = json.loads((place / "base" / "starts.jsonl").read_text())
    assert (start["peak_tflops"], start["peak_source"]) == (0.001, "[loop] peak_tflops")
    data = train("memory.toml", "memory", "--start", place / "base" / "checkpoint.pt", "--json").data
    assert data["state"]["tokens_by_row_kind"] == {"aligned_192_gists_32_1": 4 * 2 * 192}
    records = [json.loads(line) for line in (place / "memory" / "log.jsonl").read_text().splitlines()]
    assert records[-1]["gist/norm"] > 0


def test_a_run_that_learns_gists_looks_at_held_out_text(train, place):
    longer = CONFIG.replace("max_positions = 256", "max_positions = 1024").replace(
        "log_every", "probe_every = 3\nlog_every"
    )
    (place / "base.toml").write_text(longer)
    assert train("memory.toml", "memory").code == 0
    records = [json.loads(line) for line in (place / "memory" / "log.jsonl").read_text().splitlines()]
    named = {"delta_nll_64/level_1", "delta_nll_64/level_2", "gists_save_64/level_1/of_none"}
    assert [named <= set(record) for record in records] == [False, False, True, False]


LONG = CONFIG.replace("max_positions = 256", "max_positions = 2048").replace("length = 64", "length = 2048")


def test_a_base_that_uses_no_far_context_is_told_of_or_stops(train, place):
    (place / "base.toml").write_text(LONG + '[gate]\nrows = 1\nwhen_missed = "stop"\n')
    stopped = train("base.toml", "base")
    assert stopped.code == 1
    (line,) = [line for line in stopped.err.splitlines() if "far context" in line]
    assert "does not use far context as [gate] asks: " in line
    assert "far words of " in line
    assert (place / "base" / "checkpoint.pt").is_file()
    records = [json.loads(one) for one in (place / "base" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 4]
    assert records[-1]["gate/is_reached"] == 0
    (place / "base.toml").write_text(LONG)
    warned = train("base.toml", "memory")
    assert warned.code == 0, warned.err
    assert warned.out.startswith("step 4, ")
    assert "Gists of it will stand in for little" in warned.err


def test_a_gate_that_cannot_be_measured_is_refused_before_a_run(train, place):
    (place / "base.toml").write_text(CONFIG + "[gate]\n")
    refused = train("base.toml", "base")
    assert refused.code == 2
    assert "[gate] judges by windows of 2,048 tokens, but the longest row is 64" in refused.err
    assert not (place / "base" / "log.jsonl").exists()


def test_a_core_begins_with_a_plain_model(train, place, prepared, monkeypatch):
    model = place / "model"
    plain = Qwen3Config(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        tie_word_embeddings=False,
    )
    Qwen3ForCausalLM(plain).save_pretrained(model)
    refused = train("base.toml", "base", "--start", model)
    assert refused.code == 2
    assert "rotary_dims is 8, but weights of" in refused.err
    shaped = CONFIG.replace("rotary_dims = 8", f"rotary_dims = 14\nrotary_base = {1e4 ** (7 / 8)!r}")
    (place / "base.toml").write_text(shaped)
    assert "holds no tokenizer.json" in train("base.toml", "base", "--start", model).err
    assert not (place / "base" / "checkpoint.pt").exists()
    shutil.copy(prepared / "tokenizer" / "tokenizer.json", model)
    monkeypatch.chdir(place)  # a folder of the user's, not one beside the bundled models
    result = train("base.toml", "base", "--start", "model")
    assert result.out.startswith("step 4, 512 tokens, "), result.err


def test_a_run_goes_on_only_when_asked_to(train, place):
    assert "no checkpoint.pt to resume" in train("base.toml", "base", "--resume").err
    assert train("base.toml", "base").code == 0
    before = digests(place / "base")
    again = train("base.toml", "base")
    assert (again.code, digests(place / "base")) == (2, before)
    assert "holds a run already; add --resume" in again.err
    (place / "base.toml").write_text(CONFIG.replace("num_steps = 4", "num_steps = 6"))
    # the core that it started from is not needed any more
    again = train("base.toml", "base", "--resume", "--start", place / "gone.pt")
    assert again.out.startswith("step 6, 768 tokens"), again.err
    starts = [json.loads(line) for line in (place / "base" / "starts.jsonl").read_text().splitlines()]
    assert [start["step"] for start in starts] == [0, 4]


def test_a_seed_of_the_command_line_replaces_that_of_the_file(train, place):
    masters = []
    for name, options in (("base", ()), ("same", ("--seed", "0")), ("other", ("--seed", "7"))):
        if name != "base":
            shutil.copytree(place / "base" / "data", place / name / "data")
        assert train("base.toml", name, *options).code == 0
        masters.append(torch.load(place / name / "checkpoint.pt", weights_only=True)["optimizer"]["masters"])
    first, same, other = masters
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    (place / "base.toml").write_text(CONFIG.replace("num_steps = 4", "num_steps = 5"))
    assert train("base.toml", "other", "--resume").out.startswith("step 5, ")  # with the seed that it was begun with
    assert train("base.toml", "base", "--resume", "--seed", "7").out.startswith("step 5, ")
    seeds = [
        [json.loads(line)["seed"] for line in (place / name / "starts.jsonl").read_text().splitlines()]
        for name in ("other", "base")
    ]
    assert seeds == [[7, 7], [0, 7]]
    assert ": --seed is -1; choose" in train("base.toml", "new", "--seed", "-1").err


def test_a_finished_run_stays_as_it_is(train, place):
    train("base.toml", "base")
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files(place / "base")}
    again = train("base.toml", "base", "--resume")
    assert (again.code, again.out[:18]) == (0, "step 4, 512 tokens")
    assert (
        f"{place / 'base'} is finished (step 4 of 4); nothing was changed: for more give [loop] a greater" in again.err
    )
    assert again.err.count("\n") == 1
    by_the_clock = train("base.toml", "base", "--resume", "--minutes", "1e-9", "--json")
    assert by_the_clock.data["state"]["step"] == 4
    assert "of 1e-09); nothing was changed: for more give [loop] a greater num_steps, or a longer --minutes" in (
        by_the_clock.err
    )
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files(place / "base")} == before


def files(folder):
    return [path for path in folder.iterdir() if path.is_file()]


def test_a_run_of_something_else_does_not_go_on(train, place):
    train("base.toml", "base")
    before = digests(place / "base")
    (place / "base.toml").write_text(CONFIG.replace("mlp_width = 32", "mlp_width = 48"))
    result = train("base.toml", "base", "--resume")
    assert (result.code, digests(place / "base")) == (2, before)
    assert "[model] mlp_width was 32 and is 48" in result.err
    result = train("memory.toml", "memory", "--start", place / "base" / "checkpoint.pt")
    assert result.code == 2
    assert "memory.toml: " in result.err
    assert "has shape (32, 32), but the configuration says (48, 32)" in result.err
    assert not (place / "memory" / "checkpoint.pt").exists()


def test_changed_tokens_are_noticed(train, place, prepared):
    train("base.toml", "base")
    (place / "base" / "data").unlink()
    copy = place / "base" / "data"
    copy.mkdir()
    for path in prepared.iterdir():
        if path.suffix:
            (copy / path.name).symlink_to(path)
    (copy / "tokenizer").symlink_to(prepared / "tokenizer")
    with np.load(prepared / "books_train.npz") as arrays:
        changed = {name: arrays[name].copy() for name in arrays}
    changed["ids_N"][5] += 1
    (copy / "books_train.npz").unlink()
    np.savez(copy / "books_train.npz", **changed)
    before = digests(place / "base")
    result = train("base.toml", "base", "--resume")
    assert (result.code, digests(place / "base")) == (2, before)
    assert "the books tokens are others" in result.err


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


def test_a_damaged_checkpoint_is_neither_resumed_nor_started_from(train, place):
    train("base.toml", "base")
    checkpoint = place / "base" / "checkpoint.pt"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    before = digests(place / "base")
    for result in (train("base.toml", "base", "--resume"), train("memory.toml", "memory", "--start", checkpoint)):
        assert result.code == 1
        assert "checkpoint.pt is damaged: " in result.err
        assert result.err.count("\n") == 1
    assert digests(place / "base") == before


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (("num_steps", "num_step"), 2, "[loop] has an unknown key 'num_step'; did you mean 'num_steps'?"),
        (("rows = 2", "rows = 0"), 2, "batch 'short': rows is 0; choose a whole number of at least 1"),
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
    assert "file is a file; give a folder" in train("base.toml", "file").err
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


def test_ctrl_c_leaves_a_checkpoint_to_resume(train, place):
    """A signal in the middle of a step: exit code 130, and the run goes on from its last checkpoint."""
    (place / "base.toml").write_text(CONFIG.replace("num_steps = 4", "num_steps = 100000"))
    folders = ("--data", place / "text", "--out", place / "base")
    # who is started in the background by a shell ignores the signal, and hands that on
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    script += "from megacontext.cli.main import main; main()"
    command = [sys.executable, "-c", script, "train", place / "base.toml", *folders, "--eager"]
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True) as running:
        try:
            until = time.monotonic() + 120
            while not (place / "base" / "checkpoint.pt").exists():
                assert running.poll() is None, running.communicate()[1]
                assert time.monotonic() < until
                time.sleep(0.05)
            running.send_signal(signal.SIGINT)
            said = running.communicate(timeout=60)[1]
        finally:
            running.kill()  # or a failed test would wait for it
    assert running.returncode == 130, said
    assert "Traceback" not in said
    steps = torch.load(place / "base" / "checkpoint.pt", weights_only=True)["state"]["step"]
    (place / "base.toml").write_text(CONFIG.replace("num_steps = 4", f"num_steps = {steps + 2}"))
    assert train("base.toml", "base", "--resume").out.startswith(f"step {steps + 2:,}, ")


def test_bundled_configurations_have_names(monkeypatch, place):
    monkeypatch.chdir(place)
    for name in BUNDLED:
        assert read_settings(config_path(Path(name))).vocab_size == 4096
    (place / "base").rename(place / "elsewhere")
    (place / "base").write_text(CONFIG)  # a file of that name is meant first
    assert read_settings(config_path(Path("base"))).vocab_size == 512


def test_every_bundled_configuration_is_in_the_wheel():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    expected = {f"recipes/core/{name}.toml": f"megacontext/training/configs/{name}.toml" for name in BUNDLED}
    assert wheel["force-include"] == expected
    assert all((ROOT / path).is_file() for path in expected)


def test_help_does_without_torch():
    script = "import sys; from megacontext.cli.main import run; run(sys.argv[1:]); assert 'torch' not in sys.modules"
    for arguments in (["--help"], ["train", "--help"]):
        subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, timeout=120)
