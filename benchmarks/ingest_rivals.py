"""Reading in with learned gists against RAG ingest of the same files: whose tokens come in faster?

Ours is files to a memory: tokens, gists of every level, word index, provenance, originals, all of it synced. RAG is the
usual pipeline: chunks of 256 tokens through an embedding model, vectors and text into LanceDB or sqlite-vec. The
embedders are BERT as transformers runs it, with random weights, since time does not depend on what they know: one of
the shape of all-MiniLM-L6-v2, one as small as our core. Batch size and precision are those that serve each best on
this machine, tokenizing and cutting cost it what they cost us. Every round runs all sides by turns.

python benchmarks/ingest_rivals.py --out benchmarks/results     # needs the extra `bench`
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from megacontext.bases.registry import BaseHandle
from megacontext.evaluation.library import assemble_library
from megacontext.runtime.assembly import open as open_memory
from record import parser, record, row, skip

CHUNK_TOKENS = 256
STORED_AT_ONCE = 1024  # chunks of one write: fewer, larger ones are what both stores like
BATCHES, PRECISIONS = (8, 32, 128), (torch.float32, torch.bfloat16)
NEEDED = ("lancedb", "sqlite_vec", "apsw")

Vectors = npt.NDArray[np.float32]
Chunks = tuple[list[npt.NDArray[np.uint32]], list[str]]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A BERT: its name in the table, and what transformers calls its sizes."""

    name: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int


SHAPES = (
    Shape(
        name="MiniLM-L6",
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        vocab_size=30_522,
    ),
    Shape(
        name="small BERT",
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=1024,
        vocab_size=4096,
    ),
)


class Embedder:
    """Mean-pooled, normalised states of a BERT of random weights."""

    def __init__(self, shape: Shape) -> None:
        from transformers import BertConfig, BertModel

        torch.manual_seed(0)
        settings = {key: value for key, value in dataclasses.asdict(shape).items() if key != "name"}
        self.shape = shape
        self._model = BertModel(BertConfig(**settings), add_pooling_layer=False).eval()
        self.num_parameters = sum(weights.numel() for weights in self._model.parameters())
        self.batch, self.precision = BATCHES[0], PRECISIONS[0]

    def tune(self, chunks: Sequence[npt.NDArray[np.uint32]]) -> None:
        """Choose what embeds a few chunks fastest."""
        few = chunks[: max(BATCHES)]
        timed = []
        for precision in PRECISIONS:
            for batch in BATCHES:
                self.batch, self.precision = batch, precision
                self.vectors(few[:batch])
                timed.append((seconds(lambda: self.vectors(few)), batch, precision))
        _, self.batch, self.precision = min(timed, key=lambda choice: choice[0])

    def timed_vectors(self, chunks: Sequence[npt.NDArray[np.uint32]]) -> tuple[Vectors, Spent]:
        found: list[Vectors] = []
        took = spent(lambda: found.append(self.vectors(chunks)))
        return found[0], took

    @torch.inference_mode()
    def vectors(self, chunks: Sequence[npt.NDArray[np.uint32]]) -> Vectors:
        model = self._model.to(self.precision)
        by_length = np.argsort([-len(chunk) for chunk in chunks], kind="stable")
        result = np.empty((len(chunks), self.shape.hidden_size), np.float32)
        for first in range(0, len(chunks), self.batch):
            places = by_length[first : first + self.batch]
            lengths = torch.tensor([len(chunks[place]) for place in places])
            ids = torch.zeros(len(places), int(lengths.max()), dtype=torch.long)
            for line, place in enumerate(places):
                ids[line, : lengths[line]] = torch.from_numpy(chunks[place].astype(np.int64))
            mask = torch.arange(ids.shape[1]) < lengths[:, None]
            is_padded = not bool(mask.all())  # without a mask attention is faster
            states = model(input_ids=ids, attention_mask=mask.long() if is_padded else None).last_hidden_state
            means = (states.float() * mask[..., None]).sum(1) / lengths[:, None]
            result[places] = torch.nn.functional.normalize(means, dim=-1).numpy()
        return result


def chunks_of(paths: Sequence[Path], handle: BaseHandle) -> Chunks:
    """Read, tokenize, cut; our own tokenizer, so that both sides pay the same for it."""
    texts = [path.read_text(encoding="utf-8") for path in paths]
    ids = [
        encoded.token_ids[start : start + CHUNK_TOKENS]
        for encoded in handle.codec.encode_batch(texts)
        for start in range(0, len(encoded.token_ids), CHUNK_TOKENS)
    ]
    return ids, [handle.codec.decode(chunk) for chunk in ids]


def into_lancedb(folder: Path, vectors: Vectors, texts: Sequence[str]) -> None:
    import lancedb
    import pyarrow as pa

    dim = vectors.shape[1]
    schema = pa.schema([pa.field("vector", pa.list_(pa.float32(), dim)), pa.field("text", pa.utf8())])
    table = lancedb.connect(str(folder)).create_table("chunks", schema=schema)
    for part in parts(len(texts)):
        rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors[part].reshape(-1)), dim)
        table.add(pa.table({"vector": rows, "text": texts[part]}, schema=schema))
    assert table.count_rows() == len(texts)


def into_sqlite_vec(folder: Path, vectors: Vectors, texts: Sequence[str]) -> None:
    """Through apsw: the sqlite3 of many Pythons may not load extensions."""
    import apsw
    import sqlite_vec

    connection = apsw.Connection(str(folder / "chunks.sqlite"))
    connection.enable_load_extension(True)
    connection.load_extension(sqlite_vec.loadable_path())
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE chunks (chunk INTEGER PRIMARY KEY, text TEXT)")
    connection.execute(f"CREATE VIRTUAL TABLE vectors USING vec0(embedding float[{vectors.shape[1]}])")
    for part in parts(len(texts)):
        numbers = range(part.start, min(part.stop, len(texts)))
        with connection:
            connection.executemany("INSERT INTO chunks VALUES (?, ?)", zip(numbers, texts[part], strict=True))
            rows = ((number, vectors[number].tobytes()) for number in numbers)
            connection.executemany("INSERT INTO vectors(rowid, embedding) VALUES (?, ?)", rows)
    connection.close()


STORES: dict[str, Callable[[Path, Vectors, Sequence[str]], None]] = {
    "LanceDB": into_lancedb,
    "sqlite-vec": into_sqlite_vec,
}


def parts(length: int) -> Iterator[slice]:
    for start in range(0, length, STORED_AT_ONCE):
        yield slice(start, start + STORED_AT_ONCE)


def seconds(action: Callable[[], object]) -> float:
    return spent(action).wall_s


@dataclass(frozen=True)
class Spent:
    """Seconds on the clock, and of the processors, which a busy machine does not stretch."""

    wall_s: float
    busy_s: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall_s + other.wall_s, self.busy_s + other.busy_s)


def spent(action: Callable[[], object]) -> Spent:
    began, worked = time.perf_counter(), time.process_time()
    action()
    return Spent(time.perf_counter() - began, time.process_time() - worked)


def ours(folder: Path, paths: Sequence[Path], handle: BaseHandle) -> Spent:
    """One ingest with learned gists; the model is loaded before, as the embedders are."""
    with open_memory(folder, base=handle, create=True, gister="gistnet") as memory:
        handle.load()
        took = spent(lambda: memory.ingest(paths))
        assert memory.num_tokens
        assert not memory.is_missing_gists
    return took


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tokens", type=int, default=200_000)
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        skip(f"{', '.join(missing)} is not installed; pip install --constraint constraints.txt '.[bench]'")
    handle = BaseHandle("reference")
    embedders = [Embedder(shape) for shape in SHAPES]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = assemble_library(handle.codec, num_tokens=given.tokens, seed=0)
        paths = [folder / f"{number:04}.txt" for number in range(len(library.texts))]
        for path, text in zip(paths, library.texts, strict=True):
            path.write_text(text.text, encoding="utf-8")
        num_tokens = sum(len(chunk) for chunk in chunks_of(paths, handle)[0])
        for embedder in embedders:
            embedder.tune(chunks_of(paths, handle)[0])
        rounds = [one_round(folder / str(number), paths, handle, embedders) for number in range(given.rounds)]
    record("ingest_rivals", figures(rounds, embedders, num_tokens), given.out)


def one_round(
    folder: Path, paths: Sequence[Path], handle: BaseHandle, embedders: Sequence[Embedder]
) -> dict[str, Spent]:
    """What every side took, once. An embedder runs once for both stores."""
    folder.mkdir()
    took = {"ours": ours(folder / "ours.mc", paths, handle)}
    ids, texts = chunks_of(paths, handle)
    cutting = spent(lambda: chunks_of(paths, handle))
    for embedder in embedders:
        name = embedder.shape.name
        vectors, took[name] = embedder.timed_vectors(ids)
        for store, write in STORES.items():
            place = folder / f"{name} {store}"
            place.mkdir()
            took[f"{name}, {store}"] = cutting + took[name] + spent(partial(write, place, vectors, texts))
    return took


def figures(
    rounds: Sequence[dict[str, Spent]], embedders: Sequence[Embedder], num_tokens: int
) -> list[dict[str, object]]:
    our_seconds = statistics.median(took["ours"].wall_s for took in rounds)
    rows = [row("ingest with learned gists", num_tokens / our_seconds, "tokens/s", tokens=num_tokens)]
    for embedder in embedders:
        for store in STORES:
            name = f"{embedder.shape.name}, {store}"
            ratios = [took[name].wall_s / took["ours"].wall_s for took in rounds]
            rows.append(
                row(
                    f"tokens/s with learned gists / RAG with {name}",
                    statistics.median(ratios),
                    "x",
                    at_least=3,
                    lowest=min(ratios),
                    of_processor_time=statistics.median(took[name].busy_s / took["ours"].busy_s for took in rounds),
                    rag_tokens_per_s=num_tokens / statistics.median(took[name].wall_s for took in rounds),
                    embedding_share=statistics.median(
                        took[embedder.shape.name].wall_s / took[name].wall_s for took in rounds
                    ),
                    million_parameters=embedder.num_parameters / 1e6,
                    batch=embedder.batch,
                    precision=str(embedder.precision).removeprefix("torch."),
                    threads=torch.get_num_threads(),
                )
            )
    return rows


if __name__ == "__main__":
    main()
