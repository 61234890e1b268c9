"""A step of training on a device that is made up: what mixes devices fails here, without a GPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tests.bases.pretended_device import DEVICE, moved_there, pretended_device
from torch._subclasses.fake_tensor import unset_fake_temporarily

from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.testing.fake_core import TINY_CORE, TINY_GIST_NET
from megacontext.training.curriculum import Batch, BatchKind, Stage, draw_batch
from megacontext.training.gist_cuts import GistCut
from megacontext.training.lens_labels import label
from megacontext.training.memory_model import MemoryConfig, MemoryLearner
from megacontext.training.moments import Moment
from megacontext.training.windows import TextSource, Window

GISTS = BatchKind(
    name="gists",
    share=1.0,
    rows=2,
    length=256,
    mix={"plain": 1.0},
    gists=GistCut(shapes=((32, 1),), num_tail=2, num_open=1),
)
RAW = replace(GISTS, name="raw", gists=None)


def drawn(source: TextSource, kind: BatchKind) -> Batch:
    with unset_fake_temporarily():
        return draw_batch(source, Stage(name="one", batches=(kind,)), seed=0, step=0)


def nets_there() -> MemoryLearner:
    with unset_fake_temporarily():
        core = Core(replace(TINY_CORE, vocab_size=512))
        learner = MemoryLearner(core, GistNet(TINY_GIST_NET), MemoryConfig(reconstructor_width=32))
    moved_there(learner)
    return learner


def test_losses_of_windows_with_and_without_gists(source: TextSource) -> None:
    with pretended_device():
        learner = nets_there()
        for kind in (GISTS, RAW):
            loss, losses_BT = learner.loss(drawn(source, kind).to(DEVICE), compiled=False)
            assert loss.device == losses_BT.device == DEVICE
            assert losses_BT.shape == (2, 256)


def test_what_a_lens_is_taught_with_comes_back() -> None:
    ids = np.random.default_rng(0).integers(0, 512, (2, 257))
    windows = [Window(tokens_T=row[:-1], targets_T=row[1:], weights_T=np.ones(256, np.float32)) for row in ids]
    moments = [Moment(query=(210, 230), horizon=(229, 245))]
    with pretended_device():
        learner = nets_there()
        samples = label(
            learner.core,
            learner.gist_net,
            [(window, moments) for window in windows],
            tail_tokens=64,
            measured=False,
        )
        assert len(samples) == 2
        tensors = [value for sample in samples for value in vars(sample).values()]
        assert {tensor.device.type for tensor in tensors} == {"cpu"}
