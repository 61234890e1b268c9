"""``megacontext train``: runs that are resumed, stopped, or told to go on from something else."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import torch
from tests.cli.train.conftest import CONFIG, digests

from megacontext.errors import InvalidValueError
from megacontext.memory.lock import RunLock
from megacontext.training import recipe


def test_a_run_goes_on_only_when_asked_to(train, place):
    assert "no checkpoint.pt to resume" in train("base.toml", "base", "--resume").err
    assert train("base.toml", "base").code == 0
    before = digests(place / "base")
    again = train("base.toml", "base")
    assert (again.code, digests(place / "base")) == (2, before)
    assert "holds a run already; add --resume" in again.err
    (place / "base.toml").write_text(CONFIG.replace("num_steps = 4", "num_steps = 6"))
    both = train("base.toml", "base", "--resume", "--start", place / "gone.pt")
    assert (both.code, digests(place / "base")) == (2, before)
    assert "gone.pt changes nothing of a run that goes on with --resume; leave one out" in both.err
    again = train("base.toml", "base", "--resume")
    assert again.out.startswith("step 6, 768 tokens"), again.err
    starts = [json.loads(line) for line in (place / "base" / "starts.jsonl").read_text().splitlines()]
    assert [start["step"] for start in starts] == [0, 4]


def test_two_runs_do_not_share_a_folder(train, place):
    with RunLock(place / "base"):
        before = digests(place / "base")
        refused = train("base.toml", "base")
        assert (refused.code, digests(place / "base")) == (1, before)
        assert "base is being written by another run; wait for it, or choose another folder with --out" in refused.err
    assert train("base.toml", "base").code == 0
    assert not (place / "base" / "run.lock").exists()


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


def test_a_limit_of_minutes_is_kept_for_whoever_goes_on(train, place):
    """Rates follow the clock of such a run; without it they would rise again."""
    (place / "base.toml").write_text(CONFIG.replace("num_steps = 4", "num_steps = 100000"))
    assert train("base.toml", "base", "--minutes", "0.01").code == 0
    checkpoint = torch.load(place / "base" / "checkpoint.pt", weights_only=True)
    assert checkpoint["given_minutes"] == 0.01
    assert checkpoint["state"]["step"] < 100_000
    again = train("base.toml", "base", "--resume")
    assert again.code == 0
    assert "of 0.01); nothing was changed" in again.err


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


def test_a_checkpoint_brings_the_tokenizer_of_its_run(train, place, monkeypatch):
    """A fresh folder is prepared with it: one that is learnt anew from other text would be refused."""
    train("base.toml", "base")
    given = []

    def prepare(*args, tokenizer, **options):
        given.append(tokenizer)
        raise InvalidValueError("enough is known")

    monkeypatch.setattr(recipe, "prepare", prepare)
    alone = place / "checkpoint.pt"
    alone.write_bytes((place / "base" / "checkpoint.pt").read_bytes())
    for start in (place / "base" / "checkpoint.pt", alone):
        assert "enough is known" in train("memory.toml", "fresh", "--start", start).err
    assert given == [place / "base" / "data" / "tokenizer", None]


def test_a_checkpoint_of_another_tokenizer_is_refused(train, place, prepared):
    train("base.toml", "base")
    other = place / "memory" / "data"
    other.unlink()
    shutil.copytree(prepared, other)
    path = other / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    ids = content["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    path.write_text(json.dumps(content))
    checkpoint = place / "base" / "checkpoint.pt"
    refused = train("memory.toml", "memory", "--start", checkpoint)
    assert refused.code == 2
    assert "holds another tokenizer than" in refused.err
    alone = place / "checkpoint.pt"
    alone.write_bytes(checkpoint.read_bytes())
    refused = train("memory.toml", "memory", "--start", alone)
    assert refused.code == 2
    assert "the tokenizer is another one" in refused.err
    assert "keep data/tokenizer of its run beside it" in refused.err
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


def test_a_checkpoint_that_no_run_wrote_is_refused_before_text_is_prepared(train, place):
    train("base.toml", "base")
    checkpoint = place / "base" / "checkpoint.pt"
    saved = torch.load(checkpoint, weights_only=True)
    saved["optimizer"]["masters"]["head.weight"].fill_(float("nan"))
    torch.save(saved, checkpoint)
    before = digests(place / "base")
    said = (
        f"megacontext: head.weight of {checkpoint} holds values that are no numbers; take another checkpoint, or start"
    )
    for result in (train("base.toml", "base", "--resume"), train("memory.toml", "new", "--start", checkpoint)):
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert result.err.startswith(said)
    assert digests(place / "base") == before
    assert not (place / "new").exists()


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
