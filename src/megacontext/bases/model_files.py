"""Small files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megacontext.errors import BaseModelError
from megacontext.values import shown

__all__ = ["read_json"]


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file, or nothing if it is not there; BaseModelError if it is no JSON object."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{path}: not readable as JSON ({error}); copy or save the model again") from error
    if not isinstance(content, dict):
        raise BaseModelError(f"{path}: holds {shown(content)}; copy or save the model again")
    return content
