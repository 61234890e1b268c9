"""Which files a prepared folder was made of, so that a run is not resumed under the name of others.

Token arrays are what a run trains on, and they stay as they are whatever becomes of these files; but somebody who gives
another data folder to a run that goes on expects it to be read, and has to hear that it is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from megacontext.errors import InvalidValueError
from megacontext.training.babi import BABI, FILES
from megacontext.training.corpus import BOOKS, KNOWLEDGE, package_listings

__all__ = ["SOURCES", "note_sources", "refuse_other_sources"]

SOURCES = "sources.json"
PACKAGES = "packages"  # among the names of files there
STORIES = [f"{BABI}/{name}.jsonl.xz" for name in FILES["train"]]  # those of the test side among them


def note_sources(data: Path, packages: Sequence[Path], folder: Path) -> None:
    """Write the SHA-256 of every file of records of ``data`` that is there, by name, and a digest of every package of
    code."""
    digests = {name: digest for name in (*BOOKS.values(), KNOWLEDGE, *STORIES) if (digest := _digest(data / name))}
    noted = {**digests, PACKAGES: package_listings(packages)}
    (folder / SOURCES).write_text(json.dumps(noted, indent=2) + "\n")


def refuse_other_sources(data: Path, packages: Sequence[Path], folder: Path) -> None:
    """Raise InvalidValueError for a file of ``data`` that is another than the one that ``folder`` was made of, and for
    ``packages`` (none: whatever they are) that are others.

    What is not there any more of ``data`` is not missed, and folders of before know nothing.
    """
    try:
        noted = dict(json.loads((folder / SOURCES).read_text()))
        listings = dict(noted.pop(PACKAGES, {}))
    except FileNotFoundError:
        return
    except (ValueError, TypeError) as error:
        raise InvalidValueError(f"{folder / SOURCES} is no list of files ({error}); take it away to go on") from error
    fix = "and a run that goes on does not read it: give the {} that it was begun with, or begin another in a new --out"
    for name, digest in noted.items():
        if (found := _digest(data / name)) is not None and found != digest:
            raise InvalidValueError(f"{data / name} is not what {folder} was made of, {fix.format('--data')}")
    given = package_listings(packages) if packages and listings else listings
    if others := sorted(name for name in given.keys() | listings.keys() if given.get(name) != listings.get(name)):
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise InvalidValueError(
            f"{others[0]}{more} of --packages {', '.join(map(str, packages))} is not the code that {folder} was made "
            f"of, {fix.format('--packages')}"
        )


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
