"""Numbers that a precision cannot hold: float16 ends at 65,504, and what reaches it makes NaN of all that follows.

Logits that are no numbers end a forward before its entries count. Where that costs nothing (a CPU) or is likely
(float16) they are looked at in every forward; elsewhere where they reach the host anyway, see ``runtime/sampling.py``.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from megacontext.errors import BaseModelError
from megacontext.ports.base import BaseInfo

__all__ = ["check_logits", "check_nats", "is_checked"]


def is_checked(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether every forward looks at its logits: on a GPU that waits for it, which only float16 is worth."""
    return dtype == torch.float16 or device.type == "cpu"


def check_logits(logits: torch.Tensor, inputs: torch.Tensor, info: BaseInfo, dtype: torch.dtype) -> None:
    """BaseModelError if logits hold NaN or are infinitely large; -inf (a token that cannot be) may stand among them.

    inputs: what the forward read, to tell entries that were no numbers already from a model that overflows.
    """
    if math.isfinite(logits.amax().item()):
        return
    if not inputs.to(dtype).isfinite().all():
        raise BaseModelError(
            f"{info.name}: was given entries that hold NaN or infinity in {_name(dtype)}; make the gists again, or "
            + ("use dtype='bfloat16' or 'float32'" if dtype == torch.float16 else "copy the model again")
        )
    raise BaseModelError(f"{info.name}: its logits are not finite in {_name(dtype)}{_advice(dtype)}")


def check_nats(nats: npt.NDArray[np.floating], info: BaseInfo, dtype: torch.dtype) -> None:
    """BaseModelError if what tokens cost is NaN."""
    if np.isnan(nats).any():
        raise BaseModelError(f"{info.name}: what tokens cost is not a number in {_name(dtype)}{_advice(dtype)}")


def _advice(dtype: torch.dtype) -> str:
    if dtype == torch.float16:
        return ", which ends at 65504; use dtype='bfloat16' or dtype='float32'"
    return "; use dtype='float32', or copy the model again if it is that already: its weights may be damaged"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
