"""What a token of history takes on disk, against what its id and its share of the gists would take with nothing around.

*In theory* a history of N tokens is its ids, compressed as the arrays compress them (zstd, level 1, by chunks of 4,096:
against 4 bytes an id, also listed, compression would hide what is around them), and one gist for each complete node of
every level, in float16, with its offset and weight, without which no gist can be placed.

*On disk* is everything in the folder of a closed memory: arrays with checksums and indices, the catalog with its tail,
waiting gists, provenance and free pages, and the journal. Only two things are rows of their own and no part of the
ratio, because they hold something else: raw sources, and the full-text index. Real text, because ids of noise do not
compress; at 1,024 values the gists are noise, which float16 gists are not compressed for anyway.
python benchmarks/bytes_per_token.py --out benchmarks/results
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zstandard

from histories import make_history, real_tokens
from megacontext.bases.registry import BaseHandle
from megacontext.catalog.rows import CATALOG_FILE
from megacontext.memory.memory import Memory
from megacontext.ports.catalog import MemoryInfo
from megacontext.storage.blobs import BLOBS_FOLDER
from megacontext.storage.zarr_layout import ARRAYS_FOLDER
from megacontext.tree.geometry import TreeGeometry
from megacontext.units import MIB, format_count
from record import parser, record, row
from synthetic import chance_memory

AT_MOST = 1.03
CHUNK_TOKENS = 4_096
FULL_TEXT_TABLES = ("passages", "words")


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tokens", type=int, nargs="+", default=[1_000_000, 4_000_000])
    given = arguments.parse_args()
    handle, rows = BaseHandle("reference"), []
    for num_tokens in given.tokens:
        token_ids = real_tokens(handle, num_tokens)
        for dim in (handle.info.dim, 1_024):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name) / "memory.mc"
                memory: Memory
                if dim == handle.info.dim:
                    memory = make_history(folder, handle, num_tokens)
                    memory.store_gists()
                else:
                    memory = chance_memory(folder, handle, token_ids, dim=dim, cache_bytes=64 * MIB)
                memory.close()
                rows += figures(folder, memory.info, token_ids)
    record("bytes_per_token", rows, given.out)


def figures(folder: Path, info: MemoryInfo, token_ids: npt.NDArray[np.uint32]) -> list[dict[str, object]]:
    """The ratio, and what is in it and beside it, in bytes per token."""
    num_tokens = len(token_ids)
    parts = on_disk(folder)
    raw, full_text = parts.pop("raw sources"), parts.pop("full-text index")
    ids, gists, meta = in_theory(info, token_ids)
    total, theory = sum(parts.values()), ids + gists + meta
    what = f"{format_count(num_tokens)} tokens, {info.dim} values"
    return [
        row(
            f"{what}: on disk / ids and gists in theory",
            total / theory,
            "x",
            at_most=AT_MOST,
            against_ids_of_4_bytes=total / (4 * num_tokens + gists + meta),
            without_offsets_and_weights=total / (ids + gists),
        ),
        row(
            f"{what}: in theory",
            theory / num_tokens,
            "B",
            ids=ids / num_tokens,
            gists=gists / num_tokens,
            offsets_and_weights=meta / num_tokens,
        ),
        row(f"{what}: on disk", total / num_tokens, "B", **{name: size / num_tokens for name, size in parts.items()}),
        row(f"{what}: raw sources beside it", raw / num_tokens, "B"),
        row(f"{what}: full-text index beside it", full_text / num_tokens, "B"),
    ]


def in_theory(info: MemoryInfo, token_ids: npt.NDArray[np.uint32]) -> tuple[int, int, int]:
    """Bytes of the ids, of the gists' vectors, of their offsets and weights."""
    compress = zstandard.ZstdCompressor(level=1, write_content_size=False).compress
    pieces = (token_ids[first : first + CHUNK_TOKENS] for first in range(0, len(token_ids), CHUNK_TOKENS))
    ids = sum(min(len(compress(piece.tobytes())), piece.nbytes) for piece in pieces)
    tree = TreeGeometry(info.block_tokens)
    levels = range(1, tree.num_levels(len(token_ids)))
    num_vectors = info.gist_width * sum(tree.num_nodes(level, len(token_ids)) for level in levels)
    return ids, num_vectors * info.dim * 2, num_vectors * 8


def on_disk(folder: Path) -> dict[str, int]:
    """Bytes of a closed memory by what they hold."""
    arrays = folder / ARRAYS_FOLDER
    parts = {f"array {path.name}": folder_bytes(path) for path in sorted(arrays.iterdir()) if path.is_dir()}
    parts["layout of the arrays"] = sum(path.stat().st_size for path in arrays.iterdir() if path.is_file())
    with closing(sqlite3.connect(folder / CATALOG_FILE)) as connection:
        tables = dict(
            connection.execute(
                "SELECT coalesce(s.tbl_name, d.name), sum(d.pgsize) FROM dbstat AS d "
                "LEFT JOIN sqlite_schema AS s ON s.name = d.name GROUP BY 1"
            )
        )
    index = {name: size for name, size in tables.items() if name.split("_")[0] in FULL_TEXT_TABLES}
    parts["catalog: waiting gists"], parts["catalog: tail"] = gists, tail = tables["gists"], tables["tail"]
    catalog = (folder / CATALOG_FILE).stat().st_size
    parts["catalog: everything else"] = catalog - sum(index.values()) - gists - tail
    parts["raw sources"] = folder_bytes(folder / BLOBS_FOLDER)
    parts["full-text index"] = sum(index.values())
    parts["journal and the rest"] = folder_bytes(folder) - sum(parts.values())
    return parts


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
