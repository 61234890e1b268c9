"""What training recipes share: their command line, and the way from it and a configuration file to a run."""

from __future__ import annotations

import argparse
import json
import os
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from megacontext.bases.precision import cast_weights, working_dtype
from megacontext.bases.registry import check_placement
from megacontext.errors import InvalidValueError
from megacontext.memory.lock import RunLock
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.training.babi import BABI
from megacontext.training.base_gate import BaseGate
from megacontext.training.checkpoint import Identity, identity, read_checkpoint, same_shape
from megacontext.training.core_export import trained_shapes
from megacontext.training.enough_text import refuse_short
from megacontext.training.gauges import Gauges, measured_peak
from megacontext.training.gist_probe import PROBED_SHAPE, ROW_TOKENS, probe_gists, probe_rows
from megacontext.training.held_out import core_logits, device_option
from megacontext.training.loop import LoopConfig, LoopState, LossFunction, TrainingLoop
from megacontext.training.optim import MasterOptimizer
from megacontext.training.plan import Plan
from megacontext.training.preparation import load_stores, prepare
from megacontext.training.rehearsal import rehearse
from megacontext.training.settings import Settings, read_settings
from megacontext.training.source_files import refuse_other_sources
from megacontext.training.stopping import placing
from megacontext.training.team import Team, join_team
from megacontext.training.tokens import TokenStore, read_tokenizer
from megacontext.training.trackers import TRACKERS, open_trackers, refuse_missing
from megacontext.training.windows import TextSource
from megacontext.values import file_in_the_way, number, whole_number

__all__ = ["Learner", "RunArguments", "installed_packages", "recipe_parser", "train"]

DoesNotFit = Callable[..., AbstractContextManager[None]]


@dataclass(frozen=True)
class Learner:
    """What a recipe trains.

    weights: by name; loss: of a batch; shape: the tables that say which weights there are; start: the checkpoint that
    it begins with; gauges: what else it can say of itself; parts: the nets, by name; exact: which of them stay in
    float32; tokenizer: the folder of the one that its first weights know; first: what its masters begin with, by name,
    where that is more exact than the weights; frozen: weights that it needs and does not move, by name.
    """

    weights: Iterable[tuple[str, nn.Parameter]]
    loss: LossFunction
    shape: Mapping[str, Mapping[str, Any]]
    start: Path | None = None
    gauges: Gauges = field(default_factory=Gauges)
    parts: Mapping[str, nn.Module] = field(default_factory=dict)
    exact: frozenset[str] = frozenset()
    tokenizer: Path | None = None
    first: Mapping[str, Tensor] = field(default_factory=dict)
    frozen: Mapping[str, nn.Parameter] = field(default_factory=dict)

    def place(self, device: torch.device) -> None:
        """Move the nets there, in what the device multiplies fast."""
        for name, part in self.parts.items():
            cast_weights(part.to(device), torch.float32 if name in self.exact else working_dtype(device))

    def fitting(self, device: torch.device) -> DoesNotFit:
        """``placing`` of its weights there: what is inside may run out of memory."""
        num_weights = sum(weight.numel() for part in self.parts.values() for weight in part.parameters())
        return partial(placing, num_weights=num_weights, device=device)


def installed_packages() -> Path:
    """The site-packages folder of this environment."""
    return Path(sysconfig.get_paths()["purelib"])


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """What a run is asked for.

    config: its configuration file; data: folder with books/ and knowledge/; packages: site-packages folders to read
    code from; out: where token arrays, log and checkpoint go; minutes: end after so many, rates following the clock;
    resume: go on from the checkpoint in ``out``; seed: instead of that of the configuration, kept for those that resume
    the run; track: trackers beside the usual ones; device: auto (CUDA if there is one), cpu, cuda, cuda:N.
    """

    config: Path
    data: Path
    out: Path
    packages: tuple[Path, ...] = field(default_factory=lambda: (installed_packages(),))
    minutes: float | None = None
    resume: bool = False
    seed: int | None = None
    track: tuple[str, ...] = ()
    device: str = "auto"

    @classmethod
    def parse(cls, args: argparse.Namespace) -> RunArguments:
        """From what a `recipe_parser` parsed."""
        given = {one.name: getattr(args, one.name) for one in fields(cls)}
        return cls(**{**given, "packages": tuple(args.packages), "track": tuple(args.track)})


def recipe_parser(description: str | None, *, config: Path) -> argparse.ArgumentParser:
    """The arguments that all training recipes take; ``config`` is the recipe's own configuration file."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder with books/ and knowledge/")
    parser.add_argument(
        "--packages",
        type=Path,
        nargs="*",
        default=[installed_packages()],
        help="site-packages folders to read code from (default: this environment's)",
    )
    parser.add_argument("--out", type=Path, required=True, help="token arrays, log and checkpoint go here")
    parser.add_argument("--config", type=Path, default=config)
    parser.add_argument("--minutes", type=float, help="end after this many minutes; rates then follow the clock")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--seed", type=int, help="of first weights and batches, instead of the configuration's")
    device_option(parser)
    parser.add_argument("--track", action="append", default=[], help=f"log to one of {', '.join(TRACKERS)}, too")
    return parser


def train(args: RunArguments, build: Callable[[Settings, int], Learner]) -> LoopState:
    """Prepare token arrays (once), then train or resume. ``build`` makes the learner from the settings and the seed.

    All that is asked for is checked before anything is read or written. Raises InvalidValueError if ``out`` holds a run
    that ``resume`` does not ask for, or the other way round; MemoryLockedError while another process trains there.
    """
    checkpoint = args.out / "checkpoint.pt"
    _refuse_impossible(args, checkpoint)
    device = training_device(args.device)
    settings = read_settings(args.config)
    plan, given = _plan(args, settings, checkpoint)
    torch.set_num_threads(1)  # at these sizes threads wait for each other
    learner = build(settings, plan.loop.seed)
    does_not_fit = learner.fitting(device)
    with does_not_fit("the model's weights", fix=f"take a smaller [model] than that of {settings.path}"):
        learner.place(device)
    team = join_team()
    with RunLock(args.out) if team.is_first else nullcontext():
        return _trained(args, settings, plan, given, learner, team, device)


def _trained(
    args: RunArguments,
    settings: Settings,
    plan: Plan,
    given: Mapping[str, Any],
    learner: Learner,
    team: Team,
    device: torch.device,
) -> LoopState:
    """What `train` does once the folder is this run's alone."""
    checkpoint, does_not_fit = args.out / "checkpoint.pt", learner.fitting(device)
    source, made_of = _texts(args, settings, plan, learner, team)
    gauges = _with_peak(learner.gauges, plan.loop, device)
    rehearse(source, plan.stages, where=f"{settings.path}: ")
    with does_not_fit("masters and moments", fix=f"take a smaller [model] than that of {settings.path}"):
        optimizer = MasterOptimizer(learner.weights, plan.optim, team=team, first=learner.first, frozen=learner.frozen)
    loop = TrainingLoop(
        loss=learner.loss,
        optimizer=optimizer,
        source=source,
        stages=plan.stages,
        config=plan.loop,
        out=args.out,
        identity=made_of,
        gauges=gauges,
        judge=_judge(learner, settings, plan, args.out / "data", does_not_fit) if team.is_first else None,
        given_seed=given.get("seed"),
        given_minutes=given.get("minutes"),
    )
    gate = _gate(learner, settings, plan, args.out / "data", source) if team.is_first else None
    fix = f"{checkpoint} is whole: --resume where there is more, or with fewer rows in [gate], judges it again"

    def judge_run() -> None:
        if gate is not None:
            with does_not_fit("the rows that judge the finished run", fix=fix):
                _say(gate.judge(args.out, loop.state.step))

    if args.resume:
        loop.resume()
        if loop.progress >= 1:
            _finished(loop)
            judge_run()
            return loop.state
    if not team.is_first:
        return loop.run()
    _note_start(args, settings, loop)
    state = loop.run(trackers=open_trackers(args.track, args.out, {**settings.tables, "config": str(args.config)}))
    judge_run()
    return state


def _refuse_impossible(args: RunArguments, checkpoint: Path) -> None:
    """What is asked for against what is there, before anything is read or written."""
    if not args.resume and checkpoint.exists():
        raise InvalidValueError(f"{args.out} holds a run already; add --resume, or give another --out")
    if args.resume and not checkpoint.exists():
        raise InvalidValueError(f"{args.out} has no checkpoint.pt to resume; start a run there first")
    for folder in (args.data, *args.packages):
        if not folder.is_dir():
            raise InvalidValueError(f"{folder} is no folder; give one with text to read")
    if (file := file_in_the_way(args.out)) is not None:
        raise InvalidValueError(f"{file} is a file; give a folder for the run, new or empty")
    of_model = [*args.out.glob("config.json"), *args.out.glob("*.safetensors")]  # which no run writes
    if of_model and not args.resume:
        raise InvalidValueError(
            f"{args.out} holds a model ({of_model[0].name}); give a folder for the run, new or empty"
        )
    if args.minutes is not None:
        number("--minutes", args.minutes, above=0)
    refuse_missing(args.track)


def _plan(args: RunArguments, settings: Settings, checkpoint: Path) -> tuple[Plan, dict[str, Any]]:
    """What the configuration plans, with seed and minutes of the command line, if there are any: this one's, or those
    which the run was begun with."""
    given = {"seed": args.seed, "minutes": args.minutes}
    if args.resume:
        begun = read_checkpoint(checkpoint)
        given = {name: begun.get(f"given_{name}") if value is None else value for name, value in given.items()}
    plan = Plan.read(settings, max_minutes=given["minutes"])
    if given["seed"] is not None:
        plan = replace(plan, loop=replace(plan.loop, seed=whole_number("--seed", given["seed"])))
    return plan, given


def _say(line: str | None) -> None:
    if line:
        Console(stderr=True).print(line, soft_wrap=True, markup=False, highlight=False)


def _texts(
    args: RunArguments, settings: Settings, plan: Plan, learner: Learner, team: Team
) -> tuple[TextSource, Identity]:
    """Prepared text, which the first of a team prepares, and what the run is made of."""
    folder = args.out / "data"
    if team.is_first:
        if args.resume:
            given = () if args.packages == (installed_packages(),) else args.packages  # an environment may change
            refuse_other_sources(args.data, given, folder)
        prepare(
            args.data,
            args.packages,
            folder,
            vocab_size=plan.vocab_size,
            tokenizer=learner.tokenizer,
            least_tokens=plan.least_tokens,
        )
    team.wait()
    tokenizer = read_tokenizer(folder / "tokenizer")
    if tokenizer.get_vocab_size() > plan.vocab_size:
        raise InvalidValueError(
            f"the tokenizer in {folder} has {tokenizer.get_vocab_size()} tokens, but [model] vocab_size of "
            f"{settings.path} is {plan.vocab_size}; give that, or another --out"
        )
    stores = load_stores(folder, "train")
    refuse_short(
        {domain: len(store.ids_N) for domain, store in stores.items()},
        plan.least_tokens,
        where={domain: str(folder / f"{domain}_train.npz") for domain in stores},
        fix="give more text and a new --out",
    )
    read = {domain: store for domain, store in stores.items() if domain in plan.shares or domain == BABI}
    made_of = identity(learner.shape, tokenizer, read)
    if learner.start is not None:
        same_shape(learner.start, read_checkpoint(learner.start).get("identity", {}), made_of)
    return TextSource(tokenizer, stores, plan.shares), made_of


def _judge(
    learner: Learner,
    settings: Settings,
    plan: Plan,
    folder: Path,
    does_not_fit: DoesNotFit,
) -> Callable[[], Mapping[str, float]] | None:
    """What a run that learns gists looks at beside its own rows: held-out text, where there is enough of it."""
    core, gist_net = learner.parts.get("core"), learner.parts.get("GistNet")
    if not isinstance(core, Core) or not isinstance(gist_net, GistNet):
        return None
    if PROBED_SHAPE not in trained_shapes(settings.tables) or core.config.max_positions < ROW_TOKENS:
        return None
    files = {name: folder / f"{name}_held_out.npz" for name, share in plan.shares.items() if share}
    rows = probe_rows({name: TokenStore.load(file) for name, file in files.items() if file.is_file()})
    if not rows:
        return None
    fix = f"give [loop] of {settings.path} a probe_every beyond num_steps, or take a smaller [model]"

    def probe() -> Mapping[str, float]:
        with does_not_fit("the held-out rows that are looked at meanwhile", fix=fix):
            return probe_gists(core, gist_net, rows)

    return probe


def _gate(learner: Learner, settings: Settings, plan: Plan, folder: Path, source: TextSource) -> BaseGate | None:
    """What a core is judged by when its run is over."""
    core = learner.parts.get("core")
    is_asked_for = "gate" in settings
    if is_asked_for and not isinstance(core, Core):
        raise InvalidValueError(f"{settings.path}: [gate] judges cores, and this recipe trains none; leave it out")
    if plan.gate is None or not isinstance(core, Core):
        return None
    return BaseGate.of(plan.gate, core_logits(core), folder, source.pieces_V, is_asked_for=is_asked_for)


def _finished(loop: TrainingLoop) -> None:
    """Say that there is nothing to go on with; the run's files stay as they are."""
    state, config = loop.state, loop.config
    if loop.team.is_first:
        how_far = f"step {state.step:,} of {config.num_steps:,}"
        if config.max_minutes is not None:
            how_far += f", minute {state.seconds / 60:.1f} of {config.max_minutes:g}"
        line = f"{loop.out} is finished ({how_far}); nothing was changed: for more give [loop] a greater num_steps"
        line += ", or a longer --minutes" if config.max_minutes is not None else ""
        _say(line)


def training_device(name: str) -> torch.device:
    """Where to train; in a team, GPUs are dealt out in turn. InvalidValueError for one that is not there."""
    check_placement("auto", name)
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not num_gpus):
        return torch.device("cpu")
    number = int(name.partition(":")[2] or int(os.environ.get("LOCAL_RANK", "0")) % max(1, num_gpus))
    if number >= num_gpus:
        raise InvalidValueError(f"device is {name}, but this machine has {num_gpus} CUDA devices; use auto or cpu")
    return torch.device("cuda", number)


def _with_peak(gauges: Gauges, config: LoopConfig, device: torch.device) -> Gauges:
    if config.peak_tflops is not None:
        return replace(gauges, peak_flops=config.peak_tflops * 1e12, peak_source="[loop] peak_tflops")
    if gauges.flops is None:
        return gauges
    peak, source = measured_peak(working_dtype(device), device=device)
    return replace(gauges, peak_flops=peak, peak_source=source)


def _note_start(args: RunArguments, settings: Settings, loop: TrainingLoop) -> None:
    """One line of ``starts.jsonl`` per start: what the log's figures were made with."""
    gauges = loop.meter.gauges
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "step": loop.state.step,
        "config": str(args.config),
        "seed": loop.config.seed,
        "settings": settings.tables,
        "weights": sum(weight.numel() for weight in loop.optimizer.weights.values()),
        "peak_tflops": round(gauges.peak_flops / 1e12, 4),
        "peak_source": gauges.peak_source,
        "torch": torch.__version__,
        "processes": loop.team.size,
        "device": str(loop.optimizer.device),
        "dtype": str(working_dtype(loop.optimizer.device)).removeprefix("torch."),
    }
    with (args.out / "starts.jsonl").open("a") as lines:
        lines.write(json.dumps(start) + "\n")
