"""Models whose linear layers hold 8 or 4 bits a weight: saved so, or made so while they are read.

Only layers that multiply are quantised, so embeddings, caches and gists stay in the precision that the model computes
in. What may be installed is checked before any weight is read.

What it costs (a Llama of 4 layers, 1,024 wide, random weights, one core of an EPYC of the third generation, float32):
int8 of torchao moves logits by 4 % of their norm and takes 102 ms a token, int8 of bitsandbytes 6 % and 198 ms, its
int4 (NF4; Dettmers et al. 2023, "QLoRA") 45 % and 188 ms; unquantised weights take 29 ms. On a CPU it saves memory,
not time. Weights that were trained lose less than random ones, which have nothing to spare.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

from megacontext.errors import BaseModelError
from megacontext.values import shown

__all__ = [
    "QUANTIZED_DTYPES",
    "check_quantization",
    "computing_dtype",
    "quantization_method",
    "quantizing",
    "quiet_quantization",
]

QUANTIZED_DTYPES = ("int8", "int4")
# What is needed for models that were saved quantised. Other methods that transformers knows are left to it: it says
# what it lacks.
PACKAGES = {
    "bitsandbytes": ("accelerate", "bitsandbytes"),
    "torchao": ("torchao",),
    "fp8": ("accelerate",),
    "mxfp4": (),
}
MADE_BY = {"int8": "torchao", "int4": "bitsandbytes"}
NOISY = ("torchao", "bitsandbytes")
# What torch says of torchao while it is imported.
PYTREE_LOGGER = "torch.utils._pytree"


def quantization_method(config: dict[str, Any]) -> str | None:
    """How a ``config.json`` says that its weights are quantised; None if they are not."""
    told = config.get("quantization_config")
    if told is None:
        return None
    return str(told.get("quant_method", "bitsandbytes")) if isinstance(told, dict) else shown(told)


def check_quantization(config: dict[str, Any], asked: str, name: str) -> None:
    """BaseModelError if what quantises the model is not installed, or it should be quantised twice.

    config: of the whole model; asked: the precision, of which ``QUANTIZED_DTYPES`` are made while the model is read.
    """
    method = quantization_method(config)
    if method is not None and asked in QUANTIZED_DTYPES:
        raise BaseModelError(
            f"{name}: is quantised by {method} as it is saved, and cannot be made {asked}; leave dtype at 'auto'"
        )
    if method is not None and method not in _known_methods():
        raise BaseModelError(
            f"{name}: is quantised by {shown(method)}, which transformers does not know; known are "
            f"{', '.join(sorted(_known_methods()))}: save the model by one of them, or unquantised"
        )
    if asked in QUANTIZED_DTYPES:
        method = MADE_BY[asked]
    missing = [package for package in PACKAGES.get(method or "", ()) if importlib.util.find_spec(package) is None]
    if missing:
        raise BaseModelError(
            f"{name}: to have it quantised by {method} takes {' and '.join(missing)}; install with "
            "pip install 'megacontext[quantized]'"
        )


def _known_methods() -> set[str]:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    return {"bitsandbytes", *AUTO_QUANTIZATION_CONFIG_MAPPING} - {"bitsandbytes_4bit", "bitsandbytes_8bit"}


def computing_dtype(asked: str, method: str | None, stored: str) -> str:
    """What of the precision asked for is the one to compute in. torchao's weights keep that of when they were saved,
    and some multiply with no other."""
    if asked in QUANTIZED_DTYPES:
        return "auto"
    return stored if asked == "auto" and method == "torchao" else asked


def quantizing(asked: str, compute_dtype: Any) -> Any:
    """transformers' configuration that makes linear layers int8 (torchao, one scale a row) or int4 (bitsandbytes NF4,
    one scale for 64 weights) while they are read."""
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if asked == "int4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype)
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def quiet_quantization() -> None:
    """These packages tell at every import, and at every product, what they do not use here. transformers imports them
    where they are installed, quantised model or not: whoever imports it asks for quiet before."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    pytree = logging.getLogger(PYTREE_LOGGER)
    if _is_no_deprecation not in pytree.filters:
        pytree.addFilter(_is_no_deprecation)


def _is_no_deprecation(record: logging.LogRecord) -> bool:
    return "register_constant" not in record.getMessage()
