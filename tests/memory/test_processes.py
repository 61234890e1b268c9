"""Several processes on one memory: one writer, any number of readers, and sudden death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from megacontext.errors import MemoryLockedError, MemoryReadOnlyError
from megacontext.runtime.transfer import export_memory, import_memory

HERE = Path(__file__).parent

PRELUDE = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from doubles import VOCAB, open_folder
import numpy as np
folder = Path(sys.argv[1])
"""


@pytest.fixture
def child(tmp_path):
    """Start a script beside the doubles, with the memory's folder as its argument."""
    children = []

    def start(script, *arguments):
        code = PRELUDE.format(here=str(HERE)) + script
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "m"), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(process)
        return process

    yield start
    for process in children:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


HOLD = """
memory = open_folder(folder)
memory.append([1, 2, 3])
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_second_writer_is_told_who_holds_the_lock(kit, tmp_path, child):
    holder = child(HOLD)
    assert holder.stdout.readline() == "held\n"
    second = kit.open_folder(tmp_path / "m")
    with pytest.raises(MemoryLockedError, match=rf"process {holder.pid}; close it there or wait"):
        second.append([4])
    with pytest.raises(MemoryLockedError):
        second.check(repair=True)
    assert second.tokens(0, 3).tolist() == [1, 2, 3]  # reading needs no lock
    holder.communicate("go on\n")
    assert second.append([4]) == 3
    second.close()


def test_the_lock_of_a_dead_process_does_not_block(kit, tmp_path, child):
    holder = child(HOLD)
    holder.stdout.readline()
    holder.kill()
    holder.wait()
    assert (tmp_path / "m" / "writer.pid").read_text() == f"{holder.pid}\n"
    with kit.open_folder(tmp_path / "m") as memory:
        assert memory.append([4]) == 3
        assert (tmp_path / "m" / "writer.pid").read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / "m" / "writer.pid").exists()


def test_a_read_only_memory_never_locks(kit, tmp_path, child):
    kit.open_folder(tmp_path / "m").close()
    with kit.open_folder(tmp_path / "m", read_only=True) as memory:
        with pytest.raises(MemoryReadOnlyError):
            memory.append([1])
        assert not (tmp_path / "m" / "writer.lock").exists()


FILL = """
import resource
from megacontext.errors import StorageFullError
limit = int(sys.argv[2])
memory = open_folder(folder)
memory.append(np.arange(300) % 256)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
failures = 0
try:
    for number in range(10_000):
        memory.append_text(f"source {number}: " + "hay " * 200, source=f"s{number}")
except StorageFullError:
    failures += 1
before = memory.num_tokens, len(memory.sources())
try:
    memory.append(np.arange(2000) % 256)
except StorageFullError:
    failures += 1
assert (memory.num_tokens, len(memory.sources())) == before
assert memory.refresh() == before[0]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
memory.append(np.arange(2000) % 256)
assert memory.num_tokens == before[0] + 2000
assert memory.check(recompute_gists=True).ok
memory.close()
print(failures)
"""


@pytest.mark.parametrize("limit", [0, 5_000, 150_000, 400_000])
def test_a_full_disk_loses_nothing(kit, child, limit):
    """Every write beyond a size fails, as on a full disk; with room again, everything goes on."""
    filler = child(FILL, limit)
    output, _ = filler.communicate()
    assert filler.returncode == 0
    assert output == "2\n"


LIMITED_ERASE = """
import resource
from megacontext.errors import StorageFullError
from doubles import contents
def limit(num_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))
memory = open_folder(folder)
before = contents(memory)
for num_bytes in range(0, 400_000, 4_000):
    limit(num_bytes)
    try:
        memory.erase("s1")
        print("erased")
        break
    except StorageFullError as error:
        partly = "erase it again" in str(error)
        assert partly != ("nothing was changed" in str(error)), error
    limit(resource.RLIM_INFINITY)
    if partly:
        print("partly")
        memory.erase("s1")
        break
    assert contents(memory) == before, num_bytes
    assert memory.check(recompute_gists=True).ok, num_bytes
limit(resource.RLIM_INFINITY)
assert memory.check(recompute_gists=True).ok
assert "s1" not in {source.uri for source in memory.sources()}
memory.close()
"""


def test_erasing_on_a_full_disk_is_undone_or_can_be_finished(child, sources):
    """Before the tokens are gone it is as if nobody had asked; afterwards the message says how to go on."""
    eraser = child(LIMITED_ERASE)
    output, _ = eraser.communicate()
    assert eraser.returncode == 0
    assert output in ("partly\n", "erased\n")


def test_copies_and_new_memories_on_a_full_disk(kit, tmp_path, child, sources):
    """Nothing is left of them, and the memory itself is as it was."""
    script = """
import resource
from megacontext.errors import StorageFullError
from megacontext.runtime.transfer import export_memory, import_memory
archive = folder.parent / "copy.tar"
export_memory(folder, archive)
here = sorted(folder.parent.iterdir())
for num_bytes in (0, 5_000, 60_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))
    for attempt, target in ((export_memory, "new.tar"), (import_memory, "new")):
        try:
            attempt(folder if target == "new.tar" else archive, folder.parent / target)
        except StorageFullError as error:
            print(error)
        assert sorted(folder.parent.iterdir()) == here, num_bytes
"""
    output, _ = (process := child(script)).communicate()
    assert process.returncode == 0
    lines = output.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("no space left while ") for line in lines), output
    with kit.open_folder(tmp_path / "m") as memory:
        assert memory.check(recompute_gists=True).ok


FORBIDDEN = """
import os
from megacontext.errors import MemoryReadOnlyError
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
memory = open_folder(folder)
assert memory.tokens(0, 3).tolist() == [1, 2, 3]
try:
    memory.append([4])
except MemoryReadOnlyError as error:
    print(error)
"""


def test_a_folder_that_may_not_be_written(kit, tmp_path, child):
    """As a user without rights (root may write everywhere)."""
    with kit.open_folder(tmp_path / "m") as memory:
        memory.append([1, 2, 3])
    folders = [tmp_path / "m", *list((tmp_path / "m").parents)[:-2]]
    for folder in folders:
        if folder.stat().st_uid == os.getuid() and folder != Path("/tmp"):
            folder.chmod(0o555 if folder == tmp_path / "m" else 0o755)
    for file in (tmp_path / "m").glob("*.*"):
        file.chmod(0o444)
    reader = child(FORBIDDEN)
    output, _ = reader.communicate()
    (tmp_path / "m").chmod(0o755)
    assert reader.returncode == 0
    assert "cannot be written" in output or "read-only" in output
    assert ";" in output


WRITE = """
memory = open_folder(folder)
tokens = np.random.default_rng(5).integers(0, VOCAB, 6000)
start = 0
for number, start in enumerate(range(0, 6000, 75)):
    memory.append(tokens[start : start + 75])
    if number % 20 == 19:
        sys.stdin.readline()
memory.close()
"""


def test_readers_follow_a_writer_that_seals(kit, tmp_path, child):
    tokens = np.random.default_rng(5).integers(0, kit.VOCAB, 6000).astype(np.uint32)
    gister = kit.MeanGister()
    kit.open_folder(tmp_path / "m").close()
    reader = kit.open_folder(tmp_path / "m", read_only=True)
    writer = child(WRITE)
    lengths = []
    for pause in (1500, 3000, 4500, 6000):  # the writer runs freely up to here
        while reader.num_tokens < pause:
            assert writer.poll() is None
            lengths.append(num := reader.refresh())
            start = max(0, num - 1500)
            assert np.array_equal(reader.tokens(start, num), tokens[start:num])
            first, last = start // 8 + 1, num // 8
            if first < last:
                wanted = gister.from_tokens(tokens[first * 8 : last * 8], start=first * 8, num_context=0)
                assert np.array_equal(reader.gists(1, first, last), wanted.vectors)
        writer.stdin.write("go on\n")
        writer.stdin.flush()
    assert writer.wait() == 0
    assert lengths == sorted(lengths)
    assert reader.refresh() == 6000
    assert reader.check(recompute_gists=True).ok
    reader.close()


ERASE = """
import time
from megacontext.errors import MegaContextError, MemoryLockedError
from megacontext.memory.erase import Eraser
step, pause, tries = Eraser._recompute_gists, sys.argv[2] == "pause", 500 if sys.argv[2] == "insist" else 1
def paused(self, *arguments):
    print("half way", flush=True)
    sys.stdin.readline()
    step(self, *arguments)
if pause:
    Eraser._recompute_gists = paused
for name in sys.argv[3:]:
    with open_folder(folder) as memory:
        for left in reversed(range(tries)):
            try:
                memory.erase(name)
                print(f"erased {name}", flush=True)
                break
            except MegaContextError as error:
                if left and isinstance(error, MemoryLockedError):
                    time.sleep(0.01)
                    continue
                print(error, flush=True)
                break
"""


@pytest.fixture
def sources(kit, tmp_path):
    """A memory of six sources, each over several segments."""
    names = [f"s{number}" for number in range(6)]
    with kit.open_folder(tmp_path / "m") as memory:
        for name in names:
            memory.ingest(text=f"source {name} " + "hay stack " * 150, source=name)
    return names


def assert_whole(kit, archive, folder):
    import_memory(archive, folder)
    with kit.open_folder(folder) as copy:
        assert copy.check(recompute_gists=True).damages == ()
        return copy.sources()


def test_a_memory_is_not_copied_or_judged_half_erased(kit, tmp_path, child, sources):
    folder = tmp_path / "m"
    eraser = child(ERASE, "pause", sources[1])
    assert eraser.stdout.readline() == "half way\n"
    with pytest.raises(MemoryLockedError, match="is being erased from or repaired; try again when that is done"):
        export_memory(folder, tmp_path / "copy.tar")
    with kit.open_folder(folder, read_only=True) as reader:
        with pytest.raises(MemoryLockedError, match="being erased"):
            reader.check()
        assert len(reader.sources()) == len(sources)  # reading goes on
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]
    assert eraser.communicate("go on\n")[0] == f"erased {sources[1]}\n"
    export_memory(folder, tmp_path / "copy.tar")
    assert sources[1] not in {source.uri for source in assert_whole(kit, tmp_path / "copy.tar", tmp_path / "copy")}


def test_a_memory_is_not_erased_from_while_it_is_copied(kit, tmp_path, child, sources):
    folder, said = tmp_path / "m", []

    def erase(num_bytes, name):
        if not said:  # the catalog was copied, the files it names were not
            said.append(child(ERASE, "run", sources[0]).communicate()[0])

    export_memory(folder, tmp_path / "copy.tar", progress=erase)
    assert said == [f"{folder} is being exported, checked or moved to another base; try again when that is done\n"]
    assert sources[0] in {source.uri for source in assert_whole(kit, tmp_path / "copy.tar", tmp_path / "copy")}
    assert child(ERASE, "run", sources[0]).communicate()[0] == f"erased {sources[0]}\n"


@pytest.mark.slow
def test_every_copy_made_beside_an_eraser_checks_well(kit, tmp_path, child, sources):
    """Whoever comes first; the other is told, and the eraser tries again."""
    eraser = child(ERASE, "insist", *sources, *sources)
    archives = []
    while eraser.poll() is None:
        archive = tmp_path / f"{len(archives)}.tar"
        try:
            export_memory(tmp_path / "m", archive)
        except MemoryLockedError:
            continue
        archives.append(archive)
        time.sleep(0.02)
    assert archives
    assert "erased" in eraser.stdout.read()
    for archive in archives:
        assert_whole(kit, archive, archive.with_suffix(".copy"))


APPEND_FOREVER = """
memory = open_folder(folder)
rng = np.random.default_rng([7, memory.num_tokens])
number = len(memory.sources())
while True:
    number += 1
    text = f"source {number} begins; " + "hay " * int(rng.integers(1, 400)) + f"; source {number} ends."
    if number % 3:
        memory.append_text(text, source=f"s{number}")
    else:
        memory.ingest(text=text, source=f"s{number}")
    print(number, flush=True)
"""


@pytest.mark.slow
def test_kill_loses_nothing_that_was_acknowledged(kit, tmp_path, child):
    """SIGKILL at many moments of appends, ingests and seals; each life goes on where the last one died."""
    rng = np.random.default_rng(3)
    acknowledged = 0
    stop_at = time.monotonic() + 10
    lives = 0
    while time.monotonic() < stop_at or lives < 3:
        lives += 1
        process = child(APPEND_FOREVER)
        process.stdout.readline()
        time.sleep(float(rng.uniform(0.0, 0.5)))
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().split("\n")
        process.wait()
        with kit.open_folder(tmp_path / "m") as memory:
            texts = [memory.text(source.token_start, source.token_stop) for source in memory.sources()]
            assert len(texts) >= max([acknowledged, *(int(line) for line in lines[:-1])])
            acknowledged = len(texts)
            for number, text in enumerate(texts, start=1):
                assert text.startswith(f"source {number} begins; hay ")
                assert text.endswith(f"; source {number} ends.")
            assert memory.check(recompute_gists=True).ok
            assert memory.search_hits(f"source {acknowledged}", limit=3)
    assert acknowledged >= lives  # each life acknowledged something before it was ended
