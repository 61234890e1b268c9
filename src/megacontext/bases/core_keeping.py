"""What stands in the folder of a core beside its weights, and what becomes of it when they are written again.

Whatever others put there (a card, a licence, pictures) stays. Logs of runs are those of the weights and go with them.
Figures that were measured of other weights would lie under their old name: ``evaluation.json`` is then
``evaluation.before.json``, until it is measured again.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection
from itertools import count
from pathlib import Path
from typing import Any

from megacontext.bases.traits import CORE_TYPE
from megacontext.errors import InvalidValueError
from megacontext.values import file_in_the_way

__all__ = ["CONFIG_FILE", "carry_over", "check_place", "outdated_figures", "place_of_before", "stored_config"]

CONFIG_FILE = "config.json"
CHECKPOINT = "checkpoint.pt"
NETS = ("core", "gist_net", "lens_net")
RUN_LOGS = re.compile(r"(log|starts)(\.\d+)?\.jsonl(\.gz)?")  # as training/run_logs.py names them
FIGURES = {
    "evaluation.json": NETS,
    "lens.json": NETS,
    "positions.json": ("core", "gist_net"),
}
"""What the programs in recipes/core measure, and of which nets."""


def place_of_before(folder: Path) -> Path:
    """Where the folder lies while another takes its place."""
    return folder.with_name(f"{folder.name}.before")


def stored_config(folder: Path) -> dict[str, Any]:
    """The configuration of the core in a folder; empty where there is none."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) and config.get("model_type") == CORE_TYPE else {}


def check_place(folder: Path) -> None:
    """InvalidValueError unless a core may be written here: where nothing is, or in the place of another core."""
    before = place_of_before(folder)
    if before.exists():
        what = f"remove it if {folder} is whole" if folder.exists() else f"rename it to {folder.name}"
        raise InvalidValueError(f"{before} is left of an export that was stopped; {what}, then export again")
    if (file := file_in_the_way(folder)) is not None:
        raise InvalidValueError(f"{file} is a file; give the model a folder of its own")
    if (folder / CHECKPOINT).exists():
        raise InvalidValueError(f"{folder} holds {CHECKPOINT}, so it is that of a run; give the model one of its own")
    if folder.exists() and any(folder.iterdir()) and not stored_config(folder):
        raise InvalidValueError(
            f"{folder} is not empty and holds no core (a {CONFIG_FILE} of type {CORE_TYPE}), and a model takes the "
            "whole folder; give an empty one, or one that is not there yet"
        )


def carry_over(folder: Path, partial: Path, *, changed: Collection[str]) -> None:
    """Copy what stands beside the weights into the folder that takes the place of this one.

    changed: nets whose weights are others there; figures that were measured of them get another name. What is there
    already stays.
    """
    weights = {f"{net}.safetensors" for net in NETS}
    for path in sorted(folder.iterdir()):
        name = path.name
        if name in weights or RUN_LOGS.fullmatch(name) or (partial / name).exists():
            continue
        if set(changed) & set(FIGURES.get(name, ())):
            name = _name_of_before(folder, name)
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, partial / name, symlinks=True)
        else:
            shutil.copy2(path, partial / name, follow_symlinks=False)


def outdated_figures(folder: Path) -> list[str]:
    """Names of the figures that were measured of weights before these, and not again since."""
    return [name for name in FIGURES if not (folder / name).exists() and list(folder.glob(f"{_stem(name)}.*json"))]


def _stem(name: str) -> str:
    return f"{Path(name).stem}.before"


def _name_of_before(folder: Path, name: str) -> str:
    """``evaluation.before.json``; with a number where there is one already, of weights before those."""
    names = (f"{_stem(name)}{f'.{number}' if number > 1 else ''}.json" for number in count(1))
    return next(one for one in names if not (folder / one).exists())
