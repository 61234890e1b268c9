"""Checkpoints: one file, written in one move, verified when it is read, and bound to what the run was made of.

A checkpoint is a zip archive with a checksum per member, which torch writes and does not verify. The identity in it
(the shape of the nets, the tokenizer, the token arrays) is what a resumed run must share with the one before;
checkpoints from before it was kept are taken as they are.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from megacontext.errors import CorruptionError, InvalidValueError, StorageError
from megacontext.training.babi import BABI
from megacontext.training.checkpoint_check import OTHER_CHECKPOINT, check_content
from megacontext.training.tokens import TokenStore, first_line
from megacontext.values import shown

__all__ = [
    "Identity",
    "all_masters",
    "differences",
    "identity",
    "read_checkpoint",
    "same_nets",
    "same_shape",
    "write_checkpoint",
]

NOT_IN_WEIGHTS = frozenset({"max_positions", "rotary_base", "num_slow_bands", "learns_sigma"})
"""Keys of [model] that a run may change when it only starts from the weights of another."""

NO_ROOM_BYTES = 1 << 16  # what torch's writer may leave of a disk that it filled

Identity = Mapping[str, Any]

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
)
"""What zip, pickle and torch raise for a file that was cut or changed."""


def write_checkpoint(path: Path, saved: Mapping[str, Any]) -> None:
    """Write beside the file, then replace it: a run that dies while writing keeps the checkpoint before.

    Raises StorageError if it cannot be written.
    """
    partial = path.with_suffix(".partial")
    try:
        torch.save(dict(saved), partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer says "unexpected pos" where the disk is full
        is_full = shutil.disk_usage(path.parent).free < NO_ROOM_BYTES
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        why = "no space left" if is_full else first_line(error)
        raise StorageError(
            f"{path} could not be written ({why}); the checkpoint before is as it was: make room or "
            "allow writing there, then --resume"
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote; every byte is verified.

    Raises InvalidValueError if there is no such file, CorruptionError if it is damaged or something else, or says what
    no run wrote, weights that are no numbers included.
    """
    if not path.is_file():
        raise InvalidValueError(f"{path} is no file; give the checkpoint.pt of an earlier run")
    fix = OTHER_CHECKPOINT
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CorruptionError(f"{path} is damaged: {damaged} does not match its checksum; {fix}")
        saved = torch.load(path, weights_only=True, map_location="cpu")
    except _DAMAGE as error:
        raise CorruptionError(f"{path} is cut off or no checkpoint ({first_line(error)}); {fix}") from error
    parts = saved if isinstance(saved, dict) else {}
    optimizer, state = parts.get("optimizer"), parts.get("state")
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("masters"), dict) or not isinstance(state, dict):
        raise CorruptionError(f"{path} is no checkpoint of a training run: it lacks the optimiser or the state; {fix}")
    check_content(path, parts)
    return parts


def all_masters(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Every weight of a run by name, those that it did not move included."""
    optimizer = checkpoint["optimizer"]
    return {**optimizer.get("frozen", {}), **optimizer["masters"]}


def identity(
    shape: Mapping[str, Mapping[str, Any]], tokenizer: Tokenizer, stores: Mapping[str, TokenStore]
) -> Identity:
    """What a run is made of. shape: tables that say which weights there are."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    return {
        "shape": {name: dict(table) for name, table in shape.items()},
        "tokenizer": {"digest": _digest(vocabulary.encode()), "num_tokens": tokenizer.get_vocab_size()},
        "data": {
            domain: {"digest": _digest(store.ids_N.tobytes()), "num_tokens": len(store.ids_N)}
            for domain, store in stores.items()
        },
    }


def differences(before: Identity, now: Identity) -> list[str]:
    """What changed between two identities, in words; [] if nothing did. What only one of them knows is no change."""
    found = _shape_differences(before, now)
    if _both(before, now, "tokenizer") and before["tokenizer"]["digest"] != now["tokenizer"]["digest"]:
        found.append(
            f"the tokenizer is another one (of {before['tokenizer']['num_tokens']:,} tokens before, of "
            f"{now['tokenizer']['num_tokens']:,} now)"
        )
    was, has = before.get("data", {}), now.get("data", {})
    if was and has and {*was} - {BABI} != {*has} - {BABI}:  # stories may come to a folder later
        found.append(f"the domains were {', '.join(sorted(was))} and are {', '.join(sorted(has))}")
    for domain in sorted(set(was) & set(has)):
        if was[domain]["digest"] != has[domain]["digest"]:
            found.append(
                f"the {domain} tokens are others ({was[domain]['num_tokens']:,} before, "
                f"{has[domain]['num_tokens']:,} now)"
            )
    return found


def same_shape(path: Path, before: Identity, now: Identity) -> None:
    """Refuse to start from the core of another shape or vocabulary; raises InvalidValueError naming both."""
    both = [name for name in ("model", "gist_net") if name in before.get("shape", {}) and name in now.get("shape", {})]
    found = _shape_differences(before, now, tables=tuple(both), ignored=NOT_IN_WEIGHTS)
    found += [line for line in differences(before, now) if line.startswith("the tokenizer")]
    if found:
        raise InvalidValueError(
            f"{path} cannot be started from: {'; '.join(found)}; start from a run of the same shape and tokenizer (a "
            "new --out takes the checkpoint's: keep data/tokenizer of its run beside it)"
        )


def same_nets(path: Path, before: Identity, shape: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to read the weights of a run as nets of another shape; raises InvalidValueError naming both."""
    both = tuple(name for name in shape if name in before.get("shape", {}))
    found = _shape_differences(before, {"shape": shape}, tables=both) if both else []
    if found:
        raise InvalidValueError(f"{path} is of other nets: {'; '.join(found)}; give --config of the run itself")


def _shape_differences(
    before: Identity, now: Identity, *, tables: tuple[str, ...] = (), ignored: frozenset[str] = frozenset()
) -> list[str]:
    was, has = before.get("shape", {}), now.get("shape", {})
    if not was or not has:  # one of them is from before identities were kept
        return []
    names = tables or tuple(sorted({*was, *has}))
    found = []
    for name in names:
        if (name in was) != (name in has):
            found.append(f"table [{name}] was {'given and is missing' if name in was else 'not there and is now'}")
            continue
        old, new = was.get(name, {}), has.get(name, {})
        found += [
            f"[{name}] {key} was {shown(old[key])} and is {shown(new[key])}"
            for key in old
            if key in new and key not in ignored and old[key] != new[key]
        ]
    return found


def _both(before: Identity, now: Identity, name: str) -> bool:
    return name in before and name in now


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
