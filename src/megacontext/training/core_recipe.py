"""What a run of the core recipe trains: the core alone or, with a `[gist_net]` table, core and GistNet together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from megacontext.errors import InvalidValueError
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import CoreConfig, GistNetConfig, LensNetConfig
from megacontext.training.core_model import build_core, compile_core, window_loss
from megacontext.training.cotrained_lens import CotrainedLens, read_lens
from megacontext.training.curriculum import Batch
from megacontext.training.gauges import Gauges, core_flops, gate_values, gist_flops, gist_statistics, num_weights
from megacontext.training.memory_model import MemoryConfig, MemoryLearner
from megacontext.training.recipe import Learner
from megacontext.training.settings import Settings
from megacontext.training.starting import Beginning
from megacontext.training.stopping import building
from megacontext.values import number, whole_number

__all__ = ["build_learner", "memory_gauges", "read_memory"]

LENS = "LensNet"


def build_learner(settings: Settings, seed: int, *, start: Path | None = None, compiled: bool = True) -> Learner:
    """A core that reads raw tokens or, with a `[gist_net]` table, one that learns to read gists, too.

    start: what to go on from: a checkpoint, or a model, a folder or the name of a bundled one, either a core or plain.
    GistNet, reconstructor and lens go on, too, where it has them and the run learns them.
    Raises InvalidValueError if it is of another shape, CorruptionError if it is damaged.
    """
    config = settings.read("model", CoreConfig)
    has_gists = "gist_net" in settings
    gist_config = settings.read("gist_net", GistNetConfig) if has_gists else None
    memory = read_memory(settings) if has_gists else None
    lens_learning = read_lens(settings)
    if memory is not None and memory.frozen_core:
        refuse_raw(settings)
    if gist_config is not None and gist_config.width != config.width:
        raise InvalidValueError(
            f"{settings.path}: [gist_net] width is {gist_config.width}, but [model] width {config.width}; "
            "give both the same"
        )
    with building(settings.path):
        core = build_core(config, seed=seed)
    begin = Beginning.read(start)
    with _named(start, settings):
        begin.fill(core)
    shape = {"model": asdict(config)}
    if gist_config is None or memory is None:
        if compiled:
            compile_core(core)
        return Learner(
            core.named_parameters(),
            lambda batch: window_loss(core, *batch.tensors, compiled=compiled),
            shape,
            begin.checkpoint,
            Gauges(flops=lambda batch: core_flops(core, batch), probe=lambda: gate_values(core)),
            {"core": core},
            tokenizer=begin.tokenizer,
            first=begin.first_masters((name for name, _ in core.named_parameters()), core=""),
        )
    with building(settings.path):
        gist_net = GistNet(gist_config).to(torch.bfloat16)
        lens = None
        if lens_learning is not None:
            lens = CotrainedLens(LensNet(LensNetConfig(width=config.width)), lens_learning)
        learner = MemoryLearner(core, gist_net, memory, lens=lens)
    refuse_unread(settings, learner)
    with _named(start, settings):
        begin.fill_memory(learner)
    if compiled:
        learner.compile_parts()
    return _taught_memory(learner, begin, shape, compiled=compiled)


def _taught_memory(
    learner: MemoryLearner, begin: Beginning, shape: Mapping[str, Mapping[str, Any]], *, compiled: bool
) -> Learner:
    """What a run that learns memory trains, and what of it stays as it is."""
    memory = learner.config
    trained = {"reconstructor_width": memory.reconstructor_width, "frozen_core": memory.frozen_core}
    trained |= {"index": True} if memory.index else {}  # another set of weights
    parts = {"core": learner.core, "GistNet": learner.gist_net, "reconstructor": learner.reconstructor}
    if learner.index_head is not None:
        parts["index head"] = learner.index_head
    if learner.lens is not None:
        parts[LENS] = learner.lens.net
        trained |= {"lens": True, "lens_features": len(learner.lens.net.config.features)}
    still = learner.named_parameters() if memory.frozen_core else ()
    return Learner(
        learner.learned_parameters(),
        lambda batch: learner.loss(batch, compiled=compiled),
        {**shape, "gist_net": asdict(learner.gist_net.config), "memory": trained},
        begin.checkpoint,
        memory_gauges(learner),
        parts,
        exact=frozenset({LENS}),
        tokenizer=begin.tokenizer,
        first=begin.first_masters((name for name, _ in learner.learned_parameters()), core="core."),
        frozen={name: weight for name, weight in still if name.startswith("core.")},
    )


def refuse_raw(settings: Settings) -> None:
    """A core that stays as it is learns nothing from rows without gists."""
    for stage in settings.stages():
        for batch in stage.batches:
            if batch.gists is None:
                raise InvalidValueError(
                    f"{settings.path}: [[stage]] {stage.name!r}, batch {batch.name!r} shows no gists, and [memory] "
                    "frozen_core teaches nothing else; give it gists, or leave it out"
                )


def refuse_unread(settings: Settings, learner: MemoryLearner) -> None:
    """Gists whose vectors stand for more tokens than the reconstructor reads back, where it is asked to."""
    for stage in settings.stages():
        for batch in stage.batches:
            if batch.gists is None or not (learner.config.reconstruction or batch.gists.spans_only):
                continue
            for span_tokens, gist_width in batch.gists.shapes:
                try:
                    learner.reconstructor.check_share(span_tokens=span_tokens, gist_width=gist_width)
                except InvalidValueError as error:
                    raise InvalidValueError(
                        f"{settings.path}: [[stage]] {stage.name!r}, batch {batch.name!r}: {error}"
                    ) from error


@contextmanager
def _named(start: Path | None, settings: Settings) -> Iterator[None]:
    """Say of weights that do not fit where they and the shape come from."""
    try:
        yield
    except InvalidValueError as error:
        raise InvalidValueError(f"{start} does not fit {settings.path}: {error}") from error


def memory_gauges(learner: MemoryLearner) -> Gauges:
    """Arithmetic of core, GistNet and reconstructor; norm and variance of the newest gists of level 1; gates; errors of
    places, in tokens, where they are asked for."""
    newest: dict[str, Tensor] = {}

    def keep(net: nn.Module, args: object, kwargs: dict[str, Any], gists_NrD: Tensor) -> None:
        if kwargs["level"] == 1 and torch.is_grad_enabled():  # not those of a probe
            newest["gists"] = gists_NrD.detach().flatten(0, 1)

    learner.gist_net.register_forward_hook(keep, with_kwargs=True)

    def flops(batch: Batch) -> float:
        is_alone = batch.kind.gists is not None and batch.kind.gists.spans_only
        total = gist_flops(learner.gist_net, batch) + (0 if is_alone else core_flops(learner.core, batch))
        if batch.mixed is None or not (learner.config.reconstruction or is_alone):
            return total
        windows, net = batch.mixed, learner.reconstructor
        read_back = windows.closed_BC.numel() * windows.block_tokens
        if not is_alone:
            read_back = min(read_back, learner.config.reconstructed_tokens)
        per_vector, per_token = num_weights(net.up, net.look), num_weights(net.down, learner.core.head)
        return total + 6.0 * read_back * (per_token + per_vector * windows.gist_width / windows.block_tokens)

    def probe() -> dict[str, float]:
        gists = gist_statistics(newest["gists"]) if newest else {}
        places = {name: float(value) for name, value in learner.index_figures.items()}
        lens = {} if learner.lens is None else learner.lens.figures()
        return {**gists, **places, **lens, **gate_values(learner.core)}

    return Gauges(flops=flops, probe=probe)


def read_memory(settings: Settings) -> MemoryConfig:
    """The `[memory]` table, within limits."""
    config = settings.read("memory", MemoryConfig)
    where = f"{settings.path}: [memory] "
    number(f"{where}reconstruction", config.reconstruction, least=0)
    whole_number(f"{where}reconstructed_tokens", config.reconstructed_tokens, least=1)
    whole_number(f"{where}reconstructor_width", config.reconstructor_width, least=1)
    number(f"{where}index", config.index, least=0)
    return config
