"""A move that is killed goes on where it was, and at no moment is the memory anything but the old or the new one."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys

import pytest
from tests.small_disk import mounted, small_file_system

from megacontext.errors import MemoryReadOnlyError, StorageFullError
from megacontext.runtime import assembly
from megacontext.runtime.regist import regist
from megacontext.storage.arrays import TensorStoreArrays
from megacontext.testing.model_folder import tiny_tokenizer, write_model_folder

# dies at the n-th of the steps that leave something behind: files synced, renamed or deleted, transactions begun and
# about to be committed
CHILD = """
import os, sys
from pathlib import Path
from megacontext.catalog.writing import SqliteWriter
from megacontext.memory import retokenizing
from megacontext.runtime.regist import regist
from megacontext.storage.arrays import TensorStoreArrays

folder, base, die_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
retokenizing._LONG_TOKENS = 20_000
num_steps = 0

def counted(step):
    def wrapper(*given, **named):
        global num_steps
        num_steps += 1
        if num_steps == die_at:
            os.kill(os.getpid(), 9)
        return step(*given, **named)
    return wrapper

for owner, name in (
    (os, "fsync"), (os, "rmdir"), (Path, "unlink"), (Path, "replace"), (SqliteWriter, "finish"),
    (SqliteWriter, "__init__"), (TensorStoreArrays, "write_shard"),
):
    setattr(owner, name, counted(getattr(owner, name)))
report = regist(folder, base=base)
print(num_steps, report.num_made, flush=True)
"""


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    first, second = write_model_folder(folder / "a", seed=1), write_model_folder(folder / "b", seed=2)
    tiny_tokenizer(270).save(str(second / "tokenizer.json"))
    return str(first), str(second)


@pytest.fixture(scope="module")
def original(tmp_path_factory, bases):
    """Small sources, a long one, more than a segment, tokens, an erasure, an end that is not sealed."""
    folder = tmp_path_factory.mktemp("memory") / "m"
    text = "".join(f"line {number} of the quick brown fox\n" for number in range(2_500))
    with assembly.open(folder, base=bases[0], create=True, gister="mean", block_tokens=8) as memory:
        for number in range(20):
            memory.append_text(f"note {number}: the dog did not bark. " * 20, source=f"note {number}")
        memory.append(memory.codec.encode("tokens alone").token_ids, source="ids")
        memory.ingest(text=text, source="long")
        memory.append_text("the secret", source="secret")
        memory.erase("secret")
        memory.append_text("and the end " * 50, source="end")
    return folder


@pytest.fixture(scope="module")
def undisturbed(original, bases, tmp_path_factory):
    """What a run gives that nobody stops, and how many steps it takes."""
    folder = shutil.copytree(original, tmp_path_factory.mktemp("undisturbed") / "m")
    done = run(folder, bases[1])
    assert done.returncode == 0, done.stderr
    num_steps, num_made = map(int, done.stdout.split())
    with assembly.open(folder, read_only=True) as memory:
        assert num_made == len(memory.sources()) == 24
    return seen(folder), num_steps, files(folder)


def run(folder, base, die_at=0):
    arguments = [sys.executable, "-c", CHILD, str(folder), base, str(die_at)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def seen(folder):
    """All that is read of a memory, as one comparable text."""
    with assembly.open(folder, read_only=True) as memory:
        num = memory.num_tokens
        gists = {
            level: memory.gists(level, 0, memory.tree.num_nodes(level, num)).tobytes().hex()
            for level in range(1, memory.num_levels)
        }
        extents = [
            (source.uri, extent.token_start, extent.token_stop, extent.byte_start, extent.anchors.tolist())
            for source, extent in memory._parts.catalog.extents(0, num)
        ]
        said = [str(source) for source in memory.sources()]
        return json.dumps([memory.tokens(0, num).tolist(), gists, extents, said])


def files(folder):
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(name) for name in names if name.suffix not in (".lock", ".pid") and "sqlite-" not in name.name)


@pytest.mark.parametrize("seed", range(2))
def test_kills_cost_no_more_than_what_was_not_finished(original, undisturbed, bases, tmp_path, seed):
    wanted, num_steps, _ = undisturbed
    folder = shutil.copytree(original, tmp_path / "m")
    before = seen(folder)
    num_made, draw = 0, random.Random(seed)
    for _ in range(3):
        died = run(folder, bases[1], draw.randrange(1, num_steps))
        if died.returncode == 0:  # there was not so much left to do
            break
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert seen(folder) in (before, wanted)
        if seen(folder) == wanted:
            break
        coming = folder / "generations" / "1" / "catalog.sqlite"
        if coming.exists():
            with assembly.open(coming.parent, read_only=True) as memory:
                assert len(memory.sources()) >= num_made
                num_made = len(memory.sources())
    if seen(folder) == before:
        assert int(run(folder, bases[1]).stdout.split()[1]) == 24 - num_made
    assert seen(folder) == wanted
    with assembly.open(folder) as memory:
        assert memory.check(recompute_gists=True).ok


def test_a_kill_at_every_step_around_the_switch(original, undisturbed, bases, tmp_path):
    """From the last transaction on: the memory opens as the old or the new one, whole, and what is left goes."""
    wanted, num_steps, _ = undisturbed
    before, states, left = seen(original), [], undisturbed[2]
    for die_at in range(num_steps - 24, num_steps + 1, 3):
        folder = shutil.copytree(original, tmp_path / f"m{die_at}")
        died = run(folder, bases[1], die_at)
        assert died.returncode == -signal.SIGKILL
        states.append(seen(folder) == wanted)
        assert states[-1] or seen(folder) == before
        with assembly.open(folder) as memory:
            assert memory.check(recompute_gists=True).ok
        done = run(folder, bases[1])
        assert done.returncode == 0 or "nothing to do" in done.stderr
        assert seen(folder) == wanted
        assert files(folder) == left
    assert states == sorted(states)
    assert {*states} == {True, False}


def test_a_full_disk_is_one_error_and_the_next_run_goes_on(original, undisturbed, bases, tmp_path, monkeypatch):
    folder = shutil.copytree(original, tmp_path / "m")
    before = seen(folder)

    def full(*given):
        raise StorageFullError.of(28, "writing lod0")

    with monkeypatch.context() as patched:
        patched.setattr(TensorStoreArrays, "write_shard", full)
        with pytest.raises(StorageFullError):
            regist(folder, base=bases[1])
    assert seen(folder) == before
    assert regist(folder, base=bases[1]).num_made == 24
    assert seen(folder) == undisturbed[0]


def test_a_disk_that_is_really_full_and_one_that_is_read_only(original, undisturbed, bases, tmp_path):
    """With room again, the same command goes on."""
    num_bytes = sum(path.stat().st_size for path in original.rglob("*") if path.is_file())
    with small_file_system(tmp_path / "disk", size=f"{num_bytes + 1_200_000}") as disk:
        folder = shutil.copytree(original, disk / "m")
        before = seen(folder)
        with (disk / "filler").open("wb") as filler:
            filler.write(bytes(900_000))
        with pytest.raises(StorageFullError):
            regist(folder, base=bases[1])
        assert seen(folder) == before
        assert mounted("-o", "remount,ro", str(disk))
        with pytest.raises(MemoryReadOnlyError):
            regist(folder, base=bases[1])
        assert mounted("-o", "remount,rw,size=100m", str(disk))
        regist(folder, base=bases[1])
        assert seen(folder) == undisturbed[0]
