"""What a run of the core recipe trains: the core alone or, with a `[gist_net]` table, core and GistNet together."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from megacontext.errors import InvalidValueError
from megacontext.nets.core import CoreConfig
from megacontext.nets.gist_net import GistNet, GistNetConfig
from megacontext.nets.lens_net import QUERY_TOKENS, LensNet, LensNetConfig
from megacontext.training.core_model import build_core, compile_core, window_loss
from megacontext.training.curriculum import Batch
from megacontext.training.gauges import Gauges, core_flops, gate_values, gist_flops, gist_statistics, num_weights
from megacontext.training.lens_model import calibration_figures
from megacontext.training.lens_stability import moments_by_text, stability_figures
from megacontext.training.memory_model import LensLearning, MemoryConfig, MemoryLearner
from megacontext.training.moments import HORIZON_TOKENS
from megacontext.training.recipe import Learner
from megacontext.training.settings import Settings
from megacontext.training.starting import Beginning
from megacontext.values import number, whole_number

__all__ = ["build_learner", "memory_gauges", "read_lens", "read_memory"]

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
    lens = read_lens(settings)
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
            tokenizer=begin.folder,
        )
    gist_net = GistNet(gist_config).to(torch.bfloat16)
    lens_net = None if lens is None else LensNet(LensNetConfig(width=config.width))
    learner = MemoryLearner(core, gist_net, memory, lens_net=lens_net, lens=lens)
    with _named(start, settings):
        begin.fill_memory(learner)
    if compiled:
        learner.compile_parts()
    trained = {"reconstructor_width": memory.reconstructor_width, "frozen_core": memory.frozen_core}
    trained |= {"index": True} if memory.index else {}  # another set of weights
    parts = {"core": core, "GistNet": learner.gist_net, "reconstructor": learner.reconstructor}
    if learner.index_head is not None:
        parts["index head"] = learner.index_head
    if lens_net is not None:
        parts[LENS] = lens_net
        trained |= {"lens": True}
    return Learner(
        learner.learned_parameters(),
        lambda batch: learner.loss(batch, compiled=compiled),
        {**shape, "gist_net": asdict(gist_config), "memory": trained},
        begin.checkpoint,
        memory_gauges(learner),
        parts,
        frozenset({LENS}),
        begin.folder,
    )


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
        places = lens_figures(learner) | {name: float(value) for name, value in learner.index_figures.items()}
        return {**gists, **places, **gate_values(learner.core)}

    return Gauges(flops=flops, probe=probe)


def lens_figures(learner: MemoryLearner) -> dict[str, float]:
    """Of the newest moments that the lens was asked at: ``correlation/KIND/level_1``, ``agreement/KIND/level_1``,
    ``swap_rate/plain`` and ``residency/plain``. ``recipes/core/lens.py`` logs the same of held-out rows, whose blocks
    were opened one by one."""
    if learner.lens_net is None:
        return {}
    lens, kinds = copy.deepcopy(learner.lens_net).cpu(), ("plain", "questions")  # samples are on the CPU
    of_kind = {kind: [one for one in learner.lens_samples if bool(one.asks) == (kind != "plain")] for kind in kinds}
    return calibration_figures(lens, of_kind) | stability_figures(lens, moments_by_text(of_kind["plain"]))


def read_lens(settings: Settings) -> LensLearning | None:
    """The `[lens]` table, within limits, if there is one; what it needs has to be there, and nothing that it alone
    looks at where there is none."""
    max_positions = settings.table("model").get("max_positions")
    stages = settings.stages(max_positions=max_positions)
    told = [(stage, kind) for stage in stages for kind in stage.batches if kind.num_variants > 1]
    if "lens" not in settings:
        for stage, kind in told:
            raise InvalidValueError(
                f"{settings.path}: [[stage]] {stage.name!r}, batch {kind.name!r} has {kind.num_variants} variants of "
                "each row, which only a lens compares; add [lens], or leave variants out"
            )
        return None
    lens = settings.read("lens", LensLearning)
    where = f"{settings.path}: [lens] "
    number(f"{where}weight", lens.weight, above=0)
    number(f"{where}measured", lens.measured, least=0)
    if "gist_net" not in settings:
        raise InvalidValueError(f"{settings.path}: [lens] chooses among gists, but there is no [gist_net]; add it")
    if not told:
        raise InvalidValueError(
            f"{settings.path}: [lens] learns from rows that stand in several windows, but no batch has gists with "
            "variants above 1; give one, or leave [lens] out"
        )
    for stage, kind in told:
        assert kind.gists is not None
        for block_tokens, _ in kind.gists.shapes:
            if kind.gists.num_tail * block_tokens < QUERY_TOKENS + HORIZON_TOKENS:
                raise InvalidValueError(
                    f"{settings.path}: [[stage]] {stage.name!r}, batch {kind.name!r} has a tail of "
                    f"{kind.gists.num_tail} blocks of {block_tokens} tokens, which leaves a lens no room for "
                    f"{QUERY_TOKENS} tokens that ask and {HORIZON_TOKENS} after them; give num_tail at least "
                    f"{-(-(QUERY_TOKENS + HORIZON_TOKENS) // block_tokens)}"
                )
    return lens


def read_memory(settings: Settings) -> MemoryConfig:
    """The `[memory]` table, within limits."""
    config = settings.read("memory", MemoryConfig)
    where = f"{settings.path}: [memory] "
    number(f"{where}reconstruction", config.reconstruction, least=0)
    whole_number(f"{where}reconstructed_tokens", config.reconstructed_tokens, least=1)
    whole_number(f"{where}reconstructor_width", config.reconstructor_width, least=1)
    number(f"{where}index", config.index, least=0)
    return config
