"""A session in a file: its cut, its pins and the model's state, so that it goes on where it stood, bit for bit.

One safetensors file, under a checksum. What was erased from the memory since must not come back through it, nor what
only a copy of the memory came to hold: where the rows of the window no longer stand for the tokens and gists that the
model read, its state is left out and made anew of the cut. The file holds what the window shows, in the model's words;
keep it as private as the memory.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from megacontext.errors import (
    BaseMismatchError,
    CorruptionError,
    InvalidValueError,
    InvariantError,
    MemoryStateError,
)
from megacontext.focus.pins import Spans
from megacontext.focus.rows import CutRows
from megacontext.ports.base import SupportsSavedCache
from megacontext.runtime.config import SessionConfig, window_budget
from megacontext.runtime.engine import Engine
from megacontext.runtime.focusing import Hysteresis
from megacontext.runtime.patching import Patching
from megacontext.runtime.placement import LEAD, SCRATCH
from megacontext.storage.faults import os_faults
from megacontext.storage.syncing import sync
from megacontext.tree.cuts import Cut
from megacontext.values import number, span, whole_number

if TYPE_CHECKING:
    import torch

    from megacontext.memory.memory import Memory
    from megacontext.ports.base import BaseInfo
    from megacontext.ports.focus import Allocator, Lens
    from megacontext.runtime.decode import ModelWindow

__all__ = ["DIGEST", "HEADER", "SavedSession", "digest_of", "read_session", "restore_into", "save_session"]

FORMAT = 4
HEADER = "megacontext_session"
DIGEST = "sha256"
CACHE = "cache."


@dataclass(frozen=True, kw_only=True)
class SavedSession:
    """What a file says. header: all that is no array; arrays: rows of the cut and of the window, and the cache."""

    path: Path
    header: dict[str, Any]
    arrays: dict[str, torch.Tensor]

    def config(self, *, lens: str | Lens | None, allocator: str | Allocator | None) -> SessionConfig:
        """As the session was told when it started. Lenses and allocators that were objects have to be given again."""
        with _damage(self.path):
            told = dict(self.header["config"])
            for name, given in (("lens", lens), ("allocator", allocator)):
                told[name] = told[name] if given is None else given
        missing = [name for name in ("lens", "allocator") if told[name] is None]
        if missing:
            name = missing[0]
            raise InvalidValueError(f"{self.path} was saved with {name} as an object; give {name}=... to restore it")
        with _damage(self.path):
            if isinstance(told["kv"], dict):
                told["kv"] = Patching(**told["kv"])
            return SessionConfig(**{**told, "hysteresis": Hysteresis(**told["hysteresis"])})


def save_session(engine: Engine, path: Path) -> None:
    """Write what the session is now; a file that is there is replaced when all is written.

    What the memory has gained since is taken in by who restores it: to do so here would overtake an answer.
    """
    from safetensors.torch import save

    arrays = {f"cut.{name}": _tensor(rows) for name, rows in _rows_of(engine).items()}
    header: dict[str, Any] = {
        "format": FORMAT,
        "memory": _memory_facts(engine.memory, engine.base.info),
        "num_erased": engine.memory.reader.num_erased,
        "config": _told(engine.config),
        "pins": engine.working_context.pins,
        "budgets": [engine.budget_entries, engine.working_context.config.budget_entries],
        "detail": engine.detail.state(),
        "tokens_per_row": engine.tokens_per_row,
    }
    if engine.window is not None and not engine.is_outdated:  # else it may hold what was erased
        found, header["window"] = _window_of(engine, engine.window)
        if header["window"] is not None:
            header["shown"] = _digest_of_shown(engine, found["window.keys"].numpy())
        arrays |= found
    with os_faults(f"saving the session to {path}"):
        path = path.resolve()  # through a link, not onto it
        if not path.parent.is_dir():
            raise InvalidValueError(f"the folder of {path} does not exist; create it first")
        if path.is_dir():
            raise InvalidValueError(f"{path} is a folder; give the name of a file")
        arrays = {name: tensor.contiguous() for name, tensor in arrays.items()}
        told = json.dumps(header)
        content = save(arrays, {HEADER: told, DIGEST: digest_of(told, arrays)})
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".megacontext-") as folder:
            written = Path(folder) / path.name
            written.touch(mode=0o600)
            written.write_bytes(content)
            sync(written)
            written.replace(path)


def read_session(path: Path) -> SavedSession:
    """Raises InvalidValueError (no such file, another kind of file), CorruptionError."""
    from safetensors import SafetensorError, safe_open

    with os_faults(f"reading the session in {path}"):
        if not path.is_file():
            raise InvalidValueError(f"{path} is no file; give one that session.save wrote")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                header = json.loads(metadata.get(HEADER, "null"))
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, ValueError) as error:
            raise CorruptionError(f"{path} is damaged or no saved session ({error}); save it again") from error
    if not isinstance(header, dict) or "format" not in header:
        raise InvalidValueError(f"{path} is no saved session; give a file that session.save wrote")
    if header["format"] != FORMAT:
        raise InvalidValueError(
            f"{path} was saved by another version (format {header['format']}, this one reads {FORMAT}); save it again"
        )
    if metadata.get(DIGEST) != digest_of(metadata[HEADER], arrays):
        raise CorruptionError(f"{path} fails its checksum; save it again, or begin anew with memory.session()")
    return SavedSession(path=path, header=header, arrays=arrays)


def digest_of(told: str, arrays: dict[str, torch.Tensor]) -> str:
    """SHA-256 of all that a file says: its header, and each array with its name, type and shape."""
    import torch

    digest = hashlib.sha256(told.encode())
    for name, tensor in sorted(arrays.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def restore_into(engine: Engine, saved: SavedSession) -> None:
    """Make a new session what it was. Raises BaseMismatchError, CorruptionError, MemoryStateError (the memory is
    shorter than it was)."""
    header, path = saved.header, saved.path
    with _damage(path):
        _check_memory(engine, header["memory"], path)
        cut_rows = _cut_rows(saved)
        if cut_rows.num_tokens > engine.memory.num_tokens:
            raise MemoryStateError(
                f"{path} looks at {cut_rows.num_tokens} tokens, but the memory has {engine.memory.num_tokens}; open "
                "the memory that it was saved with"
            )
        budget_entries, left_to_history = header["budgets"]
        engine.become(
            cut_rows,
            Spans.of(
                span(start, stop, limit=cut_rows.num_tokens, of="tokens of the history", is_empty_fine=False)
                for start, stop in header["pins"]
            ),
            budget_entries=window_budget(budget_entries),
            left_to_history=whole_number(
                "what is left to the history",
                left_to_history,
                most=None if engine.base.info.is_remote else budget_entries,
            ),
            utility=saved.arrays["cut.utility"].numpy(),
        )
        engine.detail.restore(header["detail"], num_tokens=cut_rows.num_tokens)
        if engine.base.info.is_remote:
            engine.tokens_per_row = number("tokens_per_row", header["tokens_per_row"], above=0)
        if header.get("window") and header["num_erased"] == engine.memory.reader.num_erased:
            _restore_window(engine, saved)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What does not fit together in a file of ours is damage, our own checks included."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, InvariantError) as error:
        raise CorruptionError(f"{path} is damaged ({type(error).__name__}: {error}); save the session again") from error


def _restore_window(engine: Engine, saved: SavedSession) -> None:
    base = engine.base.load()
    if not isinstance(base, SupportsSavedCache):
        return
    cache = {name[len(CACHE) :]: tensor for name, tensor in saved.arrays.items() if name.startswith(CACHE)}
    rows = {
        name.removeprefix("window."): tensor.numpy()
        for name, tensor in saved.arrays.items()
        if name.startswith("window.") and name != "window.logits"
    }
    window = engine.new_window()
    levels, places = rows["keys"][:, 0], rows["keys"][:, 1]
    limits = np.where(levels <= SCRATCH, engine.base.info.vocab_size, engine.memory.num_tokens)
    if (levels < LEAD).any() or (places < 0).any() or (places >= limits).any():
        raise ValueError("a row of the window stands for nothing that is there")
    if _digest_of_shown(engine, rows["keys"]) != saved.header["shown"]:
        return  # the memory says something else there: a copy that went on by itself, or an erasure that was cut
    cached = base.cache_from(cache, window.capacity_entries)
    window.restore(rows, saved.header["window"], cached, saved.arrays.get("window.logits"))
    engine.window = window


def _digest_of_shown(engine: Engine, keys_W3: npt.NDArray[np.int64]) -> str:
    """SHA-256 of the tokens and gist vectors of the memory that rows of a window stand for."""
    reader = engine.memory.reader
    raw, gists = (keys_W3[mask] for mask in (keys_W3[:, 0] == 0, keys_W3[:, 0] > 0))
    digest = hashlib.sha256(np.ascontiguousarray(reader.tokens_at(raw[:, 1]), dtype="<u4").data)
    if len(gists):
        nodes = np.unique(gists[:, :2], axis=0)
        widths = np.power(engine.memory.info.block_tokens, nodes[:, 0])
        vectors = reader.gist_batch(nodes[:, 0], nodes[:, 1] // widths).vectors
        digest.update(np.ascontiguousarray(vectors, dtype="<f2").data)
    return digest.hexdigest()


def _window_of(engine: Engine, window: ModelWindow) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    """Rows and cache of the window, and what JSON can hold of it; nothing where the base cannot save caches."""
    base = engine.base.load()
    if not isinstance(base, SupportsSavedCache):
        return {}, None
    rows, told = window.state()
    arrays = {f"window.{name}": _tensor(array) for name, array in rows.items()}
    arrays |= {CACHE + name: tensor for name, tensor in base.cache_state(window.cache).items()}
    if window.next_logits is not None:
        arrays["window.logits"] = window.next_logits.cpu()
    return arrays, told


def _memory_facts(memory: Memory, base: BaseInfo) -> dict[str, Any]:
    """What must be the same where a session is restored."""
    info = memory.info
    return {
        "created_at": info.created_at,
        "block_tokens": info.block_tokens,
        "base": base.name,
        "base_revision": base.revision,
        "base_fingerprint": base.fingerprint,
        "dtype": base.dtype,
        "gister_name": info.gister_name,
        "gister_version": info.gister_version,
        "gist_width": info.gist_width,
    }


def _check_memory(engine: Engine, saved: dict[str, Any], path: Path) -> None:
    found = _memory_facts(engine.memory, engine.base.info)
    other = [f"{name} {now!r} instead of {saved.get(name)!r}" for name, now in found.items() if now != saved.get(name)]
    if other:
        raise BaseMismatchError(
            f"{path} belongs to another memory or base ({', '.join(other)}); restore it with those of its time"
        )


def _told(config: SessionConfig) -> dict[str, Any]:
    told = {field.name: getattr(config, field.name) for field in fields(config)}
    for name in ("lens", "allocator"):
        told[name] = told[name] if isinstance(told[name], str) else None
    told["kv"] = asdict(config.kv) if isinstance(config.kv, Patching) else config.kv
    return {**told, "hysteresis": asdict(config.hysteresis)}


def _rows_of(engine: Engine) -> dict[str, np.ndarray[Any, Any]]:
    rows = engine.working_context.rows
    return {
        "levels": rows.cut.levels,
        "starts": rows.cut.starts,
        "stops": rows.cut.stops,
        "ages": rows.ages,
        "densities": rows.densities,
        "utility": engine.focus.utility,
    }


def _cut_rows(saved: SavedSession) -> CutRows:
    levels, starts, stops, ages, densities = (
        saved.arrays[f"cut.{name}"].numpy().copy() for name in ("levels", "starts", "stops", "ages", "densities")
    )
    if len({len(rows) for rows in (levels, starts, stops, ages, densities)}) != 1:
        raise ValueError("rows of the cut differ in number")
    return CutRows(Cut(levels, starts, stops), np.zeros(len(levels), dtype=np.bool_), ages, densities)


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.array(array))
