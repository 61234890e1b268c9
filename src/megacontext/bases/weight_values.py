"""Weights that are no numbers, or hold nothing: said of the tensor that is at fault, not of what it makes of a window.

Shape legend: T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from megacontext.errors import BaseModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["check_weights_tell", "is_finite"]

AGAIN = "copy or save the model again"


def check_weights_tell(model: PreTrainedModel, logits_TV: torch.Tensor, name: str) -> None:
    """BaseModelError if its embeddings, or what it makes of tokens, show that a model's weights hold NaN or infinity,
    or nothing at all. The others are read only where logits are no numbers; of a precision that overflows nothing is
    said here."""
    if not (logits_TV.isfinite().all().item() and is_finite(model.get_input_embeddings().weight)):
        for tensor_name, tensor in model.named_parameters():
            if not is_finite(tensor):
                raise BaseModelError(f"{name}: its weights hold NaN or infinity (in {tensor_name}); {AGAIN}")
    elif not (logits_TV != logits_TV[:1, :1]).any().item():
        raise BaseModelError(
            f"{name}: its logits are all {logits_TV[0, 0].item():g}, whatever it reads: its weights hold nothing that "
            f"was learned; {AGAIN}"
        )


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether it holds numbers alone; in float16 infinity may be what a large number became."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    extremes = torch.stack(torch.aminmax(tensor.detach())).float()
    are_numbers = ~extremes.isnan() if tensor.dtype == torch.float16 else extremes.isfinite()
    return bool(are_numbers.all().item())
