"""Files that misbehave while they are read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megacontext.documents import loading
from megacontext.documents.loading import OpenFile
from megacontext.errors import UnreadableSourceError


def read_bytes(path):
    with OpenFile(path) as file:
        return file.whole()


def test_missing_and_special_files(tmp_path):
    with pytest.raises(UnreadableSourceError, match="No such file"):
        read_bytes(tmp_path / "gone.txt")
    with pytest.raises(UnreadableSourceError, match="Is a directory"):
        read_bytes(tmp_path)
    with pytest.raises(UnreadableSourceError, match="not a regular file"):
        read_bytes(Path("/dev/null"))
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UnreadableSourceError, match="not a regular file"):  # and nobody writes to it
        read_bytes(tmp_path / "pipe.txt")


@pytest.mark.parametrize("change", ["grow", "cut", "touch"])
def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch, change):
    path = tmp_path / "a.txt"
    path.write_text("before")
    calls = []
    real = os.fstat

    def fstat(descriptor):
        if calls:
            if change == "grow":
                path.write_text("before and after")
            elif change == "cut":
                os.truncate(path, 2)
            else:
                os.utime(path, ns=(1, 1))
        calls.append(descriptor)
        return real(descriptor)

    monkeypatch.setattr(loading.os, "fstat", fstat)
    with pytest.raises(UnreadableSourceError, match="changed while it was read"):
        read_bytes(path)


SCRIPT = """
import os, sys
from pathlib import Path
from megacontext.documents.discovery import discover
from megacontext.documents.loading import OpenFile
from megacontext.errors import UnreadableSourceError
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
root = Path(sys.argv[1])
try:
    OpenFile(root / "file.txt").whole()
except UnreadableSourceError as error:
    print(error)
for found in discover([root]):
    print(found.path.name, found.problem)
"""


def test_what_is_not_permitted(tmp_path):
    """As a user without rights (root may read everything)."""
    root = tmp_path / "root"
    (root / "locked").mkdir(parents=True)
    (root / "file.txt").write_text("x")
    (root / "file.txt").chmod(0)
    (root / "locked").chmod(0)
    for folder in (root, *list(root.parents)[:-2]):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", SCRIPT, root], capture_output=True, text=True, check=False)
    (root / "locked").chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{root}/file.txt cannot be read (Permission denied); check its name and permissions",
        "file.txt None",
        f"locked {root}/locked cannot be read (Permission denied); check its permissions",
    ]
