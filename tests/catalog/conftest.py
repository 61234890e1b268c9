"""A catalog with something in every table, to be damaged; and what is asked of one."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.errors import MegaContextError
from megacontext.ports.catalog import Damage, Passage, Segment
from megacontext.testing.catalog_suite import EXAMPLE_INFO, add_example_source, example_gists


@pytest.fixture(scope="session")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed catalog with something in every table: 12 sources, 7 segments, a tail, gists, an index."""
    folder = tmp_path_factory.mktemp("intact")
    catalog = SqliteCatalog.create(folder, EXAMPLE_INFO)
    words = np.random.default_rng(0).zipf(1.4, (12, 4, 30)) % 3000
    for number in range(12):
        start = 40 * number
        with catalog.write() as writer:
            add_example_source(writer, start, start + 40, uri=f"file:///{number % 9}", version=number // 9 + 1)
            writer.put_gists(1, 5 * number, example_gists(5, seed=number))
            writer.add_passages(
                [
                    Passage(
                        token_start=24 * (4 * number + part),
                        token_stop=24 * (4 * number + part) + 32,
                        text=" ".join(f"w{word}" for word in words[number, part]),
                    )
                    for part in range(4)
                ]
            )
            if start + 40 >= (number * 40 // 64 + 1) * 64:
                segment = number * 40 // 64
                writer.seal(Segment(segment=segment, digest=f"{segment:064x}", raw_digest="r"))
                writer.seal_gists(1, 8 * (segment + 1))
    catalog.close()
    for leftover in folder.glob("*-*"):
        leftover.unlink()
    return folder


@pytest.fixture
def folder(intact: Path, tmp_path: Path) -> Path:
    return shutil.copytree(intact, tmp_path / "copy")


def contents(folder: Path) -> tuple[Any, ...]:
    """Everything that a catalog says."""
    catalog = SqliteCatalog.open(folder)
    try:
        extents = [
            (source, vars(extent) | {"anchors": extent.anchors.tolist()}) for source, extent in catalog.extents(0, 999)
        ]
        return (
            catalog.info,
            catalog.state(),
            catalog.sources(),
            [catalog.sources(uri=f"file:///{number}") for number in range(9)],
            extents,
            catalog.segments(),
            catalog.tail(0, 999)[1].tolist(),
            [(first, gists.vectors.tolist(), gists.weights.tolist()) for first, gists in catalog.gists(1, 0, 999)],
            [catalog.search(f"w{number} w{2 * number}", limit=20) for number in range(0, 60, 3)],
        )
    finally:
        catalog.close()


def findings(folder: Path) -> list[Damage]:
    """What check says; a catalog that cannot be opened is one finding."""
    try:
        catalog = SqliteCatalog.open(folder)
    except MegaContextError as error:
        return [Damage(object_name="catalog.sqlite", token_start=0, token_stop=0, problem=str(error))]
    try:
        return list(catalog.check())
    finally:
        catalog.close()


def rebuild(folder: Path) -> None:
    catalog = SqliteCatalog.open(folder)
    try:
        catalog.rebuild()
    finally:
        catalog.close()


def change(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "catalog.sqlite")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
