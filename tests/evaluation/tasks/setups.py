"""A setup that needs no files: one token per byte, or the reference model's tokenizer."""

from __future__ import annotations

from typing import Any

from megacontext.bases.registry import BaseHandle
from megacontext.evaluation.data_folder import DataFolder
from megacontext.evaluation.tasks.task import Setup

HANDLE = BaseHandle("reference")


def setup(**changes: Any) -> Setup:
    settings: dict[str, Any] = {
        "codec": HANDLE.codec,
        "data": DataFolder(),
        "positions": 4096,
        "budget_entries": 512,
        "is_quick": True,
    }
    return Setup(**{**settings, **changes})


def text_of(case: Any) -> str:
    return "\n".join(document.text for document in case.documents)


def num_tokens(text: str) -> int:
    return len(HANDLE.codec.encode(text).token_ids)
