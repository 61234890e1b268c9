"""What a recipe measures with: the nets of a model folder, held-out text, and the machine it ran on."""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from megacontext.bases.core_folder import CoreNets, read_core_folder
from megacontext.bases.precision import working_dtype
from megacontext.errors import BaseModelError, InvalidValueError
from megacontext.nets.core import Core
from megacontext.training.checkpoint import all_masters, read_checkpoint
from megacontext.training.core_export import core_prefix
from megacontext.training.preparation import load_stores
from megacontext.training.tokens import TOKENIZER, first_line, read_tokenizer
from megacontext.training.windows import TextSource

__all__ = [
    "CPU",
    "JUDGED",
    "core_logits",
    "device_option",
    "held_out_source",
    "nets_with_gists",
    "plain_logits",
    "processor",
    "refuse_other_run",
    "refuse_other_tokenizer",
    "refuse_short_windows",
    "run_tokenizer",
]

JUDGED = ("books", "code")
OF_THE_MODEL = "give the --out of a run of the model, or of prepare.py --tokenizer MODEL"

CPU = torch.device("cpu")


def nets_with_gists(folder: Path, *, with_lens: bool = True, device: torch.device = CPU) -> CoreNets:
    """The nets of a folder, or those beside its LensNet, on a device but for the lens: what it is asked about lies on
    the CPU. InvalidValueError if no GistNet is among them."""
    nets = read_core_folder(folder, dtype=working_dtype(device), device=device, with_lens=with_lens)
    if nets.gist_net is None:
        raise InvalidValueError(f"{folder} has no GistNet; export a run that was trained with one")
    return nets if nets.lens_net is None else dataclasses.replace(nets, lens_net=nets.lens_net.cpu())


def device_option(parser: argparse.ArgumentParser) -> None:
    """``--device`` of a recipe; ``training_device`` reads it."""
    parser.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda or cuda:N")


def plain_logits(folder: Path, device: torch.device = CPU) -> Callable[[Tensor], Tensor]:
    """A plain model as a decoder: ids [B, T] to logits [B, T, V], which come back to where the ids are. Raises
    BaseModelError where there is none."""
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=working_dtype(device)).eval().to(device)
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        raise BaseModelError(f"{folder} holds no plain model ({first_line(error)}); give another") from error

    @torch.no_grad()
    def logits(ids_BT: Tensor) -> Tensor:
        scores: Tensor = model(ids_BT.to(device), use_cache=False).logits
        return scores.to(ids_BT.device)

    return logits


def run_tokenizer(run: Path) -> Tokenizer:
    """The tokenizer of a run's token arrays; InvalidValueError if there are none."""
    if not (run / "data" / "tokenizer").is_dir():
        raise InvalidValueError(f"{run} has no token arrays; give the --out of prepare.py or of a run")
    return read_tokenizer(run / "data" / "tokenizer")


def refuse_other_tokenizer(folder: Path, tokenizer: Tokenizer, *, fix: str = OF_THE_MODEL) -> None:
    """InvalidValueError where a folder, of a run's tokenizer or of another model, holds another than this one, a
    model's: ids would stand for other text. fix: what to give instead, for the message."""
    if not (folder / TOKENIZER).is_file():
        return
    other = read_tokenizer(folder)
    if other.get_vocab() != tokenizer.get_vocab():
        raise InvalidValueError(
            f"{folder} holds another tokenizer (of {other.get_vocab_size():,} tokens) than the model (of "
            f"{tokenizer.get_vocab_size():,}); {fix}"
        )


def refuse_other_run(run: Path, model: Path, nets: CoreNets) -> None:
    """InvalidValueError where a run with a checkpoint did not make a model: it was first started at another time than
    the run whose logs stand beside the model or, where one of them has none, its weights are of other shapes."""
    start, noted = _first_start(run), _first_start(model)
    why = None if start == noted else "starts.jsonl of the two begin differently"
    if not start or not noted:
        why = _other_shape(nets, all_masters(read_checkpoint(run / "checkpoint.pt")))
    if why:
        raise InvalidValueError(
            f"{run} is not the run that made {model} ({why}), and figures say what made it; give the --out of that "
            "run, or of prepare.py"
        )


def _first_start(folder: Path) -> bytes:
    """The line of the first start of a run, which says when that was; nothing where it noted none."""
    for name, opened in (("starts.jsonl", Path.open), ("starts.jsonl.gz", gzip.open)):
        if (folder / name).is_file():
            with opened(folder / name, "rb") as lines:
                return bytes(lines.readline())
    return b""


def _other_shape(nets: CoreNets, masters: Mapping[str, Tensor]) -> str | None:
    """What tells the weights of a checkpoint from nets, in words."""
    for net, prefix in ((nets.core, core_prefix(masters)), (nets.gist_net, "gist_net.")):
        if net is None:
            continue
        for name, weight in net.named_parameters():
            master = masters.get(prefix + name)
            if master is not None and master.shape != weight.shape:
                return f"{name} has shape {tuple(master.shape)} there and {tuple(weight.shape)} here"
        stem = f"{prefix}layers."
        num_layers = len({name.removeprefix(stem).split(".")[0] for name in masters if name.startswith(stem)})
        if num_layers != len(net.layers):
            return f"there are {num_layers} {prefix}layers there and {len(net.layers)} here"
    return None


def refuse_short_windows(core: Core, model: Path, row_tokens: int) -> None:
    """InvalidValueError where rows are longer than any window that a core takes."""
    if core.config.max_positions < row_tokens:
        raise InvalidValueError(
            f"{model} takes windows of {core.config.max_positions:,} tokens at most (max_positions), but is measured "
            f"on rows of {row_tokens:,}; give a model of longer windows"
        )


def held_out_source(run: Path, tokenizer: Tokenizer, shares: Mapping[str, float]) -> TextSource:
    """Rows from held-out books and code, mixed as in training; InvalidValueError if one of them is not there, or they
    are of another tokenizer."""
    refuse_other_tokenizer(run / "data" / "tokenizer", tokenizer)
    missing = [domain for domain in JUDGED if not shares.get(domain)]
    if missing:
        raise InvalidValueError(
            f"[shares] gives {missing[0]} none, and held-out {' and '.join(JUDGED)} judge; give it one"
        )
    stores = load_stores(run / "data", "held_out")
    for domain in JUDGED:
        if not len(stores[domain].ids_N):
            raise InvalidValueError(f"{run / 'data'} holds no held-out {domain} to judge by; prepare another folder")
        if (most := int(stores[domain].ids_N.max())) >= tokenizer.get_vocab_size():
            raise InvalidValueError(
                f"held-out {domain} in {run / 'data'} has token {most}, but the tokenizer has "
                f"{tokenizer.get_vocab_size()}; give the --out of a run of the model"
            )
    return TextSource(tokenizer, stores, {domain: shares[domain] for domain in JUDGED})


def core_logits(core: Core) -> Callable[[Tensor], Tensor]:
    """A core as a plain decoder: ids [B, T] to logits [B, T, V], which come back to where the ids are."""

    @torch.no_grad()
    def logits(ids_BT: Tensor) -> Tensor:
        num_tokens, device = ids_BT.shape[1], core.embed_tokens.weight.device
        mu_BT = torch.arange(num_tokens, dtype=torch.float64, device=device)[None]
        sigma_BT = torch.zeros(1, num_tokens, device=device)
        return core.logits(core(core.embed(ids_BT.to(device)), mu_BT, sigma_BT).hidden_BTD).to(ids_BT.device)

    return logits


def processor() -> str:
    """What the operating system calls the processor."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
