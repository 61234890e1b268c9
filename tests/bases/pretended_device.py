"""A device that is not the host, on a machine that has none: shapes and kinds are right, only the numbers are missing.

torch's fake tensors, on torch's device without storage, refuse whatever mixes devices, as a GPU would. (Fake tensors of
"cuda" cannot be indexed by a torch that was built without CUDA.) What is read back is all ones, and both ways are
counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from torch._functorch import config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megacontext.bases.scoring import LOGIT_CHUNK_ELEMENTS
from megacontext.nets import window_attention

__all__ = ["DEVICE", "moved_there", "pretended_device"]

DEVICE = torch.device("meta")
# From a tensor to a number, and what it is here.
READ_BACK = {
    torch.Tensor.item: lambda tensor: 1,
    torch.Tensor.__float__: lambda tensor: 1.0,
    torch.Tensor.numpy: lambda tensor: np.ones(tensor.shape, dtype=KINDS[tensor.dtype]),
    torch.allclose: lambda *tensors, **tolerances: True,
}
KINDS = {
    torch.float16: np.float16,
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int64: np.int64,
}


class _ReadBack(TorchFunctionMode):
    """Numbers for what is asked of tensors that have none."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in READ_BACK:
            return func(*args, **(kwargs or {}))
        is_there = any(map(_is_there, args))
        assert not (is_there and func is torch.Tensor.numpy), "a tensor of the device has no numpy view"
        self.counts["downloads"] += is_there
        return READ_BACK[func](*args, **(kwargs or {}))


class _Copies(TorchDispatchMode):
    """Counts copies from host to device and back, and finds the hidden ones: tensors of the host among those there."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source, target = (tensors[0], out) if len(tensors) == 1 else (tensors[1], tensors[0])
            if _is_there(source) != _is_there(target):
                self.counts["uploads" if _is_there(target) else "downloads"] += 1
        elif any(map(_is_there, tensors)):
            of_host = [tensor for tensor in tensors if not _is_there(tensor) and tensor.ndim > 0]
            assert not of_host, f"{func} is given tensors of the host"
        return out


def _is_there(tensor: Any) -> bool:
    return isinstance(tensor, torch.Tensor) and tensor.device == DEVICE


def _causal_lower_right(num_queries: int, num_keys: int) -> torch.Tensor:
    """What torch's own stands for, which is a kind of tensor itself and cannot be a fake one, too."""
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=DEVICE).tril(num_keys - num_queries)


def moved_there(net: nn.Module) -> None:
    """What ``net.to(DEVICE)`` would do, which torch cannot with fake tensors."""
    for module in net.modules():
        for kept in (module._parameters, module._buffers):
            for name, tensor in kept.items():
                if tensor is not None:
                    there = torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)
                    kept[name] = nn.Parameter(there) if isinstance(tensor, nn.Parameter) else there


@contextmanager
def pretended_device() -> Iterator[Counter[str]]:
    """In the block ``DEVICE`` is one. Gives how often something went there (``uploads``) and came back
    (``downloads``)."""
    counts: Counter[str] = Counter()
    with (
        patch.dict(LOGIT_CHUNK_ELEMENTS, {DEVICE.type: LOGIT_CHUNK_ELEMENTS["cuda"]}),
        patch.object(window_attention, "causal_lower_right", _causal_lower_right),
        config.patch(fake_tensor_allow_meta=True),
        FakeTensorMode(allow_non_fake_inputs=True),
        _Copies(counts),
        _ReadBack(counts),
        torch.no_grad(),
    ):
        yield counts
