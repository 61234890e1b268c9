"""The SQLite catalog, as every catalog and in what is its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.testing.catalog_suite import EXAMPLE_INFO, CatalogSuite, SearchSuite


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[SqliteCatalog]:
    made = SqliteCatalog.create(tmp_path, EXAMPLE_INFO)
    yield made
    made.close()


class TestSqliteCatalog(CatalogSuite):
    pass


class TestSqliteSearch(SearchSuite):
    pass
