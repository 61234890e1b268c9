"""Reading a model folder into a base: device, precision, and weights that are really all there."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils import logging

from megacontext.bases.adapter import Adapter
from megacontext.bases.core_folder import read_core_folder
from megacontext.bases.huggingface import HuggingFaceBase
from megacontext.bases.memory_limits import check_weights_fit, weights_explained
from megacontext.bases.native import NativeBase
from megacontext.bases.precision import chosen_dtype
from megacontext.bases.quantization import QUANTIZED_DTYPES, computing_dtype, quantizing
from megacontext.errors import BaseModelError, DeviceMemoryError
from megacontext.ports.base import BaseInfo
from megacontext.ports.text import TextCodec
from megacontext.values import reason_of

__all__ = ["is_known", "load_core", "load_huggingface"]

LAYER_KEY = re.compile(r"\b(?:layers|h)\.(\d+)\.")
# Saved by older versions of transformers, computed by today's.
BUFFERS = ("rotary_emb.inv_freq", "attention.bias", "attention.masked_bias", "attn.bias", "attn.masked_bias")


def is_known(model_type: str) -> bool:
    """Whether transformers has models of this type."""
    return model_type in CONFIG_MAPPING


def load_huggingface(
    folder: Path,
    codec: TextCodec,
    info: BaseInfo,
    *,
    stored: str,
    adapter: Adapter | None = None,
    quantization: str | None = None,
) -> HuggingFaceBase:
    """Read the model of a folder whose files hold ``stored``, and what adapts it. quantization: the method
    by which they are quantised.

    ``info`` may say ``auto`` for dtype and device; the base's own info says what they became.

    Raises BaseModelError when transformers cannot read it, its files hold another model than its configuration says, or
    it lacks a trait.
    """
    device = _device(info.device)
    quantizes = info.dtype in QUANTIZED_DTYPES
    dtype = chosen_dtype(
        computing_dtype(info.dtype, quantization, stored), stored, device, stored_bytes=_weight_bytes(folder)
    )
    weights: dict[str, Any] = {"stored": stored, "stored_bytes": _weight_bytes(folder)}
    if not quantizes and quantization is None:  # what is quantised takes less than its files say of another precision
        check_weights_fit(info.name, device, dtype, **weights)
    options = {"quantization_config": quantizing(info.dtype, dtype)} if quantizes else {}
    try:
        with _quiet(), weights_explained(info.name, torch.device("cpu"), dtype, **weights):
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            sees = config.get_text_config(decoder=True) is not config
            model, report = (AutoModelForImageTextToText if sees else AutoModelForCausalLM).from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below, with their shapes
                **options,
                **_placed(quantizes or quantization is not None, device),
            )
    except DeviceMemoryError:
        raise
    except Exception as error:
        raise BaseModelError(
            f"{info.name}: transformers cannot load it as a causal language model ({reason_of(error)}); check that its "
            "config.json is that of the weights, and copy or save the model again"
        ) from error
    _check_report(report, model.config.get_text_config(decoder=True).num_hidden_layers, info.name)
    if adapter is not None:
        from megacontext.bases.adapting import adapted

        model = adapted(model, adapter)
    info = dataclasses.replace(info, device=str(device), dtype=str(dtype).removeprefix("torch."))
    if not getattr(model, "is_quantized", False):
        with weights_explained(info.name, device, dtype, **weights):
            model = model.to(device, dtype)  # what was expanded on reading may have kept another precision
    return HuggingFaceBase(model, codec, info)


def load_core(folder: Path, codec: TextCodec, info: BaseInfo, *, stored: str) -> NativeBase:
    """Read the native core of a folder, with what was taught together with it; errors as in ``read_core_folder``."""
    device = _device(info.device)
    dtype = chosen_dtype(info.dtype, stored, device, stored_bytes=_weight_bytes(folder))
    nets = read_core_folder(folder, dtype=dtype, device=device)
    info = dataclasses.replace(info, device=str(device), dtype=str(dtype).removeprefix("torch."))
    return NativeBase(nets.core, codec, info, gist_net=nets.gist_net, lens_net=nets.lens_net)


def _placed(is_quantized: bool, device: torch.device) -> dict[str, Any]:
    """Quantised weights are made where they are used."""
    return {"device_map": {"": device}} if is_quantized and device.type != "cpu" else {}


def _device(asked: str) -> torch.device:
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(asked)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BaseModelError(
            f"device {asked} is not there ({torch.cuda.device_count()} CUDA devices); use device='cpu'"
        )
    return device


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _check_report(report: dict[str, Any], num_layers: int, name: str) -> None:
    """BaseModelError unless the files hold the model that config.json describes: all of its weights, of its shapes, and
    none in its layers that it knows nothing of, for then they are of a model that computes something else."""
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise BaseModelError(
            f"{name}: {len(missing)} weights are missing, first {missing[0]}; copy or save the model again"
        )
    if report["mismatched_keys"]:
        key, stored, wanted = min(report["mismatched_keys"])
        raise BaseModelError(
            f"{name}: {key} is stored as {tuple(stored)}, but config.json asks for {tuple(wanted)}; use the "
            "config.json that belongs to the weights"
        )
    unknown = sorted(filter(partial(_is_in_layers, num_layers=num_layers), report["unexpected_keys"]))
    if unknown:
        raise BaseModelError(
            f"{name}: its layers hold {len(unknown)} weights that a model of its config.json does not have, first "
            f"{unknown[0]}; use the config.json that belongs to the weights"
        )


def _is_in_layers(key: str, num_layers: int) -> bool:
    """Whether a weight is one of the layers that run: not of those behind them, which predict further tokens, and no
    buffer that follows from the configuration."""
    found = LAYER_KEY.search(key)
    return found is not None and int(found[1]) < num_layers and not key.endswith(BUFFERS)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers draws a bar even for the smallest model, and prints a table of weights; standard error belongs to
    our own bar, and what is wrong with weights is said in one line."""
    was_on, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if was_on:
            logging.enable_progress_bar()
