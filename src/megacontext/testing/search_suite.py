"""What every Catalog's full-text search must do; a catalog's tests import it from beside ``CatalogSuite``."""

from __future__ import annotations

import pytest

from megacontext.ports.catalog import Catalog, Passage

__all__ = ["SearchSuite"]


class SearchSuite:
    """Fixture ``catalog``: an empty Catalog for EXAMPLE_INFO."""

    TEXTS = (
        "The code for the vault is 48213.",
        "def max_retries(self): return HTTPServer.retries",
        "A man, a plan, a canal: Panamá!",
        "東京都は日本の首都である。",
        "the the the of and to",
        "Vaults keep gold; the plan is silent about codes.",
    )

    @pytest.fixture
    def filled(self, catalog: Catalog) -> Catalog:
        with catalog.write() as writer:
            writer.add_passages(self.passages())
        return catalog

    def passages(self) -> list[Passage]:
        return [
            Passage(token_start=24 * index, token_stop=24 * index + 32, text=text)
            for index, text in enumerate(self.TEXTS)
        ]

    def found(self, catalog: Catalog, query: str) -> list[int]:
        return [hit.token_start // 24 for hit in catalog.search(query, limit=10)]

    @pytest.mark.parametrize(
        ("query", "first"),
        [
            ("What is the code for the vault?", 0),
            ("48213", 0),
            ("max_retries", 1),
            ("retries of the server", 1),
            ("httpserver", 1),
            ("PANAMA", 2),
            ("panamá", 2),
            ("日本", 3),
            ("gold vaults", 5),
        ],
    )
    def test_the_passage_that_says_it_comes_first(self, filled: Catalog, query: str, first: int) -> None:
        hits = filled.search(query, limit=3)
        assert hits[0].token_start == 24 * first
        assert hits[0].token_stop == 24 * first + 32
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)

    @pytest.mark.parametrize(
        "query", ["", "   ", "?!…", '"', "'; DROP TABLE words; --", "a AND NOT OR (", "NEAR(", "x*", "\x00", "^", "{}:"]
    )
    def test_any_text_is_a_query(self, filled: Catalog, query: str) -> None:
        assert len(filled.search(query, limit=10)) <= 6

    def test_punctuation_and_unknown_words_find_nothing(self, filled: Catalog) -> None:
        assert filled.search("?!… -- ()", limit=10) == []
        assert filled.search("zebra", limit=10) == []

    def test_common_words_alone_still_find(self, filled: Catalog) -> None:
        assert 4 in self.found(filled, "of and to")

    def test_limit(self, filled: Catalog) -> None:
        assert len(filled.search("the", limit=2)) == 2
        assert filled.search("the", limit=0) == []

    def test_a_long_query(self, filled: Catalog) -> None:
        assert self.found(filled, "word " * 2000 + " ".join(f"w{number}" for number in range(2000)) + " gold") == [5]

    def test_the_index_can_be_rebuilt(self, filled: Catalog) -> None:
        assert filled.state().indexed_tokens == 5 * 24 + 32
        before = self.found(filled, "the vault plan")
        with filled.write() as writer:
            writer.drop_index()
        assert filled.state().indexed_tokens == 0
        assert filled.search("vault", limit=10) == []
        with filled.write() as writer:
            writer.add_passages(self.passages()[:3])
            writer.add_passages(self.passages()[3:])
        assert self.found(filled, "the vault plan") == before
        assert list(filled.check()) == []
