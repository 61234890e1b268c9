"""Adapters as peft saves them (LoRA and relatives): what is known of one without torch, and without peft.

A folder with ``adapter_config.json`` names its base (``base_model_name_or_path``) and holds what changes it, in
``adapter_model.safetensors``. The two are a base like any other; if the adapter leaves embeddings and vocabulary alone,
memories of its base are memories of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacontext.bases.tokenizers_codec import TokenizersCodec
from megacontext.errors import BaseModelError
from megacontext.values import shown

__all__ = ["ADAPTER_CONFIG", "ADAPTER_WEIGHTS", "Adapter", "find_adapter", "tokenizer_folder"]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLED_WEIGHTS = "adapter_model.bin"
# Kinds that change weights, and so are gone once they are merged. Others add entries to the window or are prompts.
MERGED_KINDS = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA", "HRA", "LN_TUNING", "TRAINABLE_TOKENS")
TASKS = ("CAUSAL_LM", "FEATURE_EXTRACTION", "None", "")


@dataclass(frozen=True)
class Adapter:
    """folder: where it lies; base: a name, folder or Hugging Face id; config: of ``adapter_config.json``."""

    folder: Path
    base: str
    config: dict[str, Any]

    @property
    def weights(self) -> Path:
        return self.folder / ADAPTER_WEIGHTS


def find_adapter(folder: Path) -> Adapter | None:
    """The adapter in a folder; None for a folder without one.

    Raises BaseModelError for one that cannot be read, is no change of weights, is made for another task, names no base,
    or has its weights in a pickle.
    """
    path = folder / ADAPTER_CONFIG
    if not path.exists():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"it holds {shown(config)}")
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{path}: not readable as JSON ({error}); copy or save the adapter again") from error
    kind, task = str(config.get("peft_type")), str(config.get("task_type") or "")
    if kind not in MERGED_KINDS:
        raise BaseModelError(
            f"{folder}: is an adapter of kind {kind}, which does more than change weights; a base can have those of "
            f"{', '.join(MERGED_KINDS)}"
        )
    if task not in TASKS:
        raise BaseModelError(
            f"{folder}: is an adapter for {task}; a base needs one for causal language models (task_type CAUSAL_LM)"
        )
    if not isinstance(config.get("base_model_name_or_path"), str) or not config["base_model_name_or_path"]:
        raise BaseModelError(
            f"{path}: names no base; write the folder or Hugging Face id of the model that it was trained on as "
            "base_model_name_or_path"
        )
    if not (folder / ADAPTER_WEIGHTS).exists():
        if (folder / PICKLED_WEIGHTS).exists():
            raise BaseModelError(
                f"{folder}: has its weights as {PICKLED_WEIGHTS}, a pickle, which can run any code and is not read; "
                f"save it as safetensors with save_pretrained"
            )
        raise BaseModelError(f"{folder}: has no weights ({ADAPTER_WEIGHTS}); copy or save the adapter again")
    return Adapter(folder, _base(folder, config["base_model_name_or_path"]), config)


def tokenizer_folder(adapter: Adapter, base_folder: Path) -> Path:
    """Where the tokenizer is that decides ids: the adapter's own if it gives other ids than its base's, as after an
    adapter's vocabulary grew; else the base's, however the other was saved."""
    own, others = adapter.folder / "tokenizer.json", base_folder / "tokenizer.json"
    if not own.exists():
        return base_folder
    if not others.exists():
        return adapter.folder
    ours, theirs = (TokenizersCodec.from_file(path) for path in (own, others))
    return base_folder if ours.fingerprint == theirs.fingerprint else adapter.folder


def _base(folder: Path, base: str) -> str:
    """The base as it can be found: a relative folder may stand beside the adapter."""
    beside = folder / base
    return str(beside) if not Path(base).is_dir() and beside.is_dir() else base
