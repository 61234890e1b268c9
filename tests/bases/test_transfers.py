from __future__ import annotations

import numpy as np
import torch

from megacontext.bases.transfers import _copied, on_device


def test_a_packed_copy_gives_what_was_packed():
    arrays = [
        np.arange(5, dtype=np.int64),
        np.zeros((0, 3), dtype=np.float32),
        np.array([True, False, True]),
        np.array([[2.5]]),
        np.linspace(0, 1, 6, dtype=np.float16).reshape(2, 3),
        np.arange(6.0).reshape(2, 3).T,
        np.float32([7.25]),
    ]
    writable = [array.copy() for array in arrays]
    arrays[0].flags.writeable = False
    for there in (on_device(torch.device("cpu"), *arrays), _copied(torch.device("cpu"), writable)):
        for tensor, array in zip(there, arrays, strict=True):
            assert tensor.numpy().dtype == array.dtype
            np.testing.assert_array_equal(tensor.numpy(), array)
    nothing = np.zeros(0)
    assert [len(there) for there in _copied(torch.device("cpu"), [nothing, nothing])] == [0, 0]
