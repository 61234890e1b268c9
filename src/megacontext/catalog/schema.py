"""The tables of a catalog, as SQLAlchemy Core describes them.

Every table ends with ``crc``: the crc32c over the other columns of its row. The full-text index is contentless FTS5:
its text comes back from tokens, and its words are made by ``catalog.words``, so the tokenizer has nothing left to do
but split at spaces.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

__all__ = [
    "APPLICATION_ID",
    "SCHEMA_REVISION",
    "WORD_INDEX",
    "WORD_INDEX_DDL",
    "extents",
    "gists",
    "labels",
    "memory",
    "metadata",
    "passages",
    "progress",
    "sealed_nodes",
    "segments",
    "sources",
    "tail",
]

SCHEMA_REVISION = 1  # the newest migration; also in PRAGMA user_version
APPLICATION_ID = 0x4D656743  # "MegC", so that `file` and our check recognise a catalog

WORD_INDEX = "words"
WORD_INDEX_DDL = (
    f"CREATE VIRTUAL TABLE {WORD_INDEX} USING fts5(terms, content='', tokenize=\"ascii tokenchars '_'\")",
    f"CREATE VIRTUAL TABLE {WORD_INDEX}_rarity USING fts5vocab({WORD_INDEX}, 'row')",
    f"CREATE VIRTUAL TABLE {WORD_INDEX}_instances USING fts5vocab({WORD_INDEX}, 'instance')",
)

metadata = MetaData()
_Int64 = BigInteger().with_variant(Integer, "sqlite")  # a rowid alias must be INTEGER in SQLite

memory = Table(
    "memory",
    metadata,
    Column("id", _Int64, primary_key=True, autoincrement=False),  # always 1
    Column("body", Text, nullable=False),  # MemoryInfo as JSON
    Column("crc", _Int64, nullable=False),
)

progress = Table(
    "progress",
    metadata,
    Column("id", _Int64, primary_key=True, autoincrement=False),  # always 1
    Column("num_commits", _Int64, nullable=False),
    Column("num_tokens", _Int64, nullable=False),
    Column("sealed_tokens", _Int64, nullable=False),
    Column("indexed_tokens", _Int64, nullable=False),
    Column("num_sources", _Int64, nullable=False),
    Column("num_extents", _Int64, nullable=False),
    Column("num_passages", _Int64, nullable=False),
    Column("num_terms", _Int64, nullable=False),
    Column("index_sum", _Int64, nullable=False),  # running checksum over every word of the index: catalog.word_index
    Column("crc", _Int64, nullable=False),
)

sealed_nodes = Table(
    "sealed_nodes",
    metadata,
    Column("level", _Int64, primary_key=True, autoincrement=False),
    Column("num_nodes", _Int64, nullable=False),
    Column("crc", _Int64, nullable=False),
)

sources = Table(
    "sources",
    metadata,
    Column("source_id", _Int64, primary_key=True, autoincrement=False),
    Column("uri", Text, nullable=False),
    Column("version", _Int64, nullable=False),
    Column("kind", Text, nullable=False),
    Column("raw_digest", Text, nullable=False),
    Column("text_digest", Text, nullable=False),
    Column("num_bytes", _Int64, nullable=False),
    Column("token_start", _Int64, nullable=False),
    Column("token_stop", _Int64, nullable=False),
    Column("role", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("licence", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("crc", _Int64, nullable=False),
    UniqueConstraint("uri", "version", name="one_source_per_version"),
)

labels = Table(
    "labels",
    metadata,
    Column("source_id", _Int64, ForeignKey("sources.source_id"), primary_key=True, autoincrement=False),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("crc", _Int64, nullable=False),
)

extents = Table(
    "extents",
    metadata,
    Column("extent_id", _Int64, primary_key=True, autoincrement=False),
    Column("source_id", _Int64, ForeignKey("sources.source_id"), nullable=False),
    Column("token_start", _Int64, nullable=False),
    Column("token_stop", _Int64, nullable=False),
    Column("byte_start", _Int64, nullable=False),
    Column("byte_stop", _Int64, nullable=False),
    Column("title", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("time", Float, nullable=False),
    Column("anchors", LargeBinary, nullable=False),  # int64, little-endian
    Column("crc", _Int64, nullable=False),
    Index("extents_by_token", "token_start"),
)

segments = Table(
    "segments",
    metadata,
    Column("segment", _Int64, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
    Column("raw_digest", Text, nullable=False),
    Column("crc", _Int64, nullable=False),
)

tail = Table(
    "tail",
    metadata,
    Column("start", _Int64, primary_key=True, autoincrement=False),
    Column("num_tokens", _Int64, nullable=False),
    Column("tokens", LargeBinary, nullable=False),  # uint32, little-endian
    Column("crc", _Int64, nullable=False),
)

gists = Table(
    "gists",
    metadata,
    Column("level", _Int64, primary_key=True, autoincrement=False),
    Column("node", _Int64, primary_key=True, autoincrement=False),
    Column("payload", LargeBinary, nullable=False),  # vectors float16, offsets float32, weights float32
    Column("crc", _Int64, nullable=False),
    sqlite_with_rowid=False,
)

passages = Table(
    "passages",
    metadata,
    Column("token_start", _Int64, primary_key=True, autoincrement=False),  # also the rowid in the word index
    Column("token_stop", _Int64, nullable=False),
    Column("num_terms", _Int64, nullable=False),
    Column("crc", _Int64, nullable=False),
)
