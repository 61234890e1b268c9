"""First schema: sources, extents, the unsealed tail, waiting gists, segments, full-text index.

Written out, not taken from ``catalog.schema``: a migration says what was, and never changes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _int(name: str, *, key: bool = False) -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return (
        sa.Column(name, kind, primary_key=True, autoincrement=False) if key else sa.Column(name, kind, nullable=False)
    )


def _text(name: str, *, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), primary_key=True) if key else sa.Column(name, sa.Text(), nullable=False)


def _float(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Float(), nullable=False)


def _bytes(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def upgrade() -> None:
    _create_state()
    _create_sources()
    _create_derived()
    op.execute("CREATE VIRTUAL TABLE words USING fts5(terms, content='', tokenize=\"ascii tokenchars '_'\")")
    op.execute("CREATE VIRTUAL TABLE words_rarity USING fts5vocab(words, 'row')")
    op.execute("CREATE VIRTUAL TABLE words_instances USING fts5vocab(words, 'instance')")


def _create_state() -> None:
    op.create_table("memory", _int("id", key=True), _text("body"), _int("crc"))
    op.create_table(
        "progress",
        _int("id", key=True),
        _int("num_commits"),
        _int("num_tokens"),
        _int("sealed_tokens"),
        _int("indexed_tokens"),
        _int("num_sources"),
        _int("num_extents"),
        _int("num_passages"),
        _int("num_terms"),
        _int("index_sum"),
        _int("crc"),
    )
    op.create_table("sealed_nodes", _int("level", key=True), _int("num_nodes"), _int("crc"))
    op.create_table("segments", _int("segment", key=True), _text("digest"), _text("raw_digest"), _int("crc"))


def _create_sources() -> None:
    op.create_table(
        "sources",
        _int("source_id", key=True),
        _text("uri"),
        _int("version"),
        _text("kind"),
        _text("raw_digest"),
        _text("text_digest"),
        _int("num_bytes"),
        _int("token_start"),
        _int("token_stop"),
        _text("role"),
        _text("author"),
        _text("licence"),
        _float("created_at"),
        _int("crc"),
        sa.UniqueConstraint("uri", "version", name="one_source_per_version"),
    )
    op.create_table(
        "labels",
        _int("source_id", key=True),
        _text("key", key=True),
        _text("value"),
        _int("crc"),
        sa.ForeignKeyConstraint(["source_id"], ["sources.source_id"]),
    )
    op.create_table(
        "extents",
        _int("extent_id", key=True),
        _int("source_id"),
        _int("token_start"),
        _int("token_stop"),
        _int("byte_start"),
        _int("byte_stop"),
        _text("title"),
        _text("role"),
        _float("time"),
        _bytes("anchors"),
        _int("crc"),
        sa.ForeignKeyConstraint(["source_id"], ["sources.source_id"]),
    )
    op.create_index("extents_by_token", "extents", ["token_start"])


def _create_derived() -> None:
    op.create_table("tail", _int("start", key=True), _int("num_tokens"), _bytes("tokens"), _int("crc"))
    op.create_table(
        "gists",
        _int("level", key=True),
        _int("node", key=True),
        _bytes("payload"),
        _int("crc"),
        sqlite_with_rowid=False,
    )
    op.create_table("passages", _int("token_start", key=True), _int("token_stop"), _int("num_terms"), _int("crc"))
