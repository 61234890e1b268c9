"""``prompt_embeds`` as vLLM reads them, for servers that stand in for it.

https://docs.vllm.ai/en/latest/features/prompt_embeds/ and ``vllm/renderers/embed_utils.py``: base64, strictly;
``torch.load`` of weights only, on the CPU, with checked sparse tensors; two dimensions (a third in front of size one is
taken off) of which the last is the model's width; floating point.
"""

from __future__ import annotations

import base64
import io

import torch

__all__ = ["decoded_embeds"]


def decoded_embeds(embeds: str, *, hidden_size: int) -> torch.Tensor:
    """The tensor [T, hidden_size] of a request. ValueError, with the reason, where vLLM refuses it."""
    try:
        data = base64.b64decode(embeds.encode("ascii"), validate=True)
        with torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]
            found = torch.load(io.BytesIO(data), weights_only=True, map_location=torch.device("cpu"))
            if not isinstance(found, torch.Tensor):
                raise ValueError(f"it holds a {type(found).__name__}")
            found = found.to_dense()
    except Exception as error:
        raise ValueError(f"`prompt_embeds` is no tensor that torch.save wrote: {error}") from error
    if found.dim() > 2:
        found = found.squeeze(0)
    if found.dim() != 2 or found.shape[1] != hidden_size:
        raise ValueError(f"`prompt_embeds` has shape {tuple(found.shape)}, not (num_tokens, {hidden_size})")
    if not found.is_floating_point():
        raise ValueError(f"`prompt_embeds` has dtype {found.dtype}, which is no floating-point type")
    return found
