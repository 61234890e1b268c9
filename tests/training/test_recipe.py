"""Where a run takes place."""

from __future__ import annotations

import pytest
import torch

from megacontext.errors import InvalidValueError
from megacontext.training.curriculum import BatchKind, Stage, draw_batch
from megacontext.training.gist_cuts import GistCut
from megacontext.training.recipe import training_device
from megacontext.training.windows import TextSource


def test_a_machine_without_gpus_trains_on_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training_device("auto") == training_device("cpu") == torch.device("cpu")
    with pytest.raises(InvalidValueError, match="device is cuda, but this machine has 0 CUDA devices"):
        training_device("cuda")
    with pytest.raises(InvalidValueError, match="device is 'tpu'; expected auto, cpu, cuda or cuda:N"):
        training_device("tpu")


def test_gpus_are_dealt_out_in_a_team(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert training_device("auto") == torch.device("cuda", 0)
    assert training_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InvalidValueError, match="device is cuda:2, but this machine has 2"):
        training_device("cuda:2")
    for rank, number in (("1", 1), ("2", 0)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert training_device("auto") == torch.device("cuda", number)


def test_a_batch_moves_with_all_that_belongs_to_it(source: TextSource) -> None:
    cut = GistCut(shapes=((32, 1),), num_tail=1)
    kind = BatchKind(name="mixed", share=1.0, rows=2, length=128, mix={"plain": 1.0}, gists=cut)
    batch = draw_batch(source, Stage(name="one", batches=(kind,)), seed=0, step=0).to(torch.device("meta"))
    assert batch.mixed is not None
    tensors = [*batch.tensors, *(value for value in vars(batch.mixed).values() if isinstance(value, torch.Tensor))]
    assert len(tensors) == 9
    assert all(tensor.device.type == "meta" for tensor in tensors)
