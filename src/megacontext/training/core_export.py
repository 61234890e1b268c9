"""From a training checkpoint to nets, and to a folder that opens as a base."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from megacontext.bases.core_folder import CoreNets, write_core_folder
from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core, CoreConfig
from megacontext.nets.gist_net import GistNet, GistNetConfig
from megacontext.nets.lens_net import FEATURES, LensNet, LensNetConfig
from megacontext.training.checkpoint import all_masters, read_checkpoint, same_nets
from megacontext.training.export import tokenizer_files
from megacontext.training.run_logs import copy_run_logs, last_start

__all__ = [
    "END_OF_TEXT_ID",
    "core_prefix",
    "drawn_before",
    "export_checkpoint",
    "load_checkpoint_nets",
    "load_masters",
    "settings_of",
    "trained_shapes",
    "with_all_features",
]

END_OF_TEXT_ID = 1
LENS = "lens_net."


def load_masters(net: nn.Module, masters: Mapping[str, Tensor], *, prefix: str) -> None:
    """Give a net the weights that a checkpoint holds under a prefix. What was never trained stays as it is.

    Raises InvalidValueError naming the first tensor that is missing or has another shape.
    """
    trained = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
    for name, weight in trained.items():
        master = masters.get(prefix + name)
        if master is None:
            raise InvalidValueError(f"the checkpoint lacks {prefix}{name}; start from a run of the same shape")
        if master.shape != weight.shape:
            raise InvalidValueError(
                f"{prefix}{name} of the checkpoint has shape {tuple(master.shape)}, but the configuration says "
                f"{tuple(weight.shape)}; start from a run of the same shape"
            )
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(masters[prefix + name])


def with_all_features(masters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights, but a lens that was told fewer features, or whose words did not count for themselves, as one
    that could be told all of them and makes nothing of the new ones: it says what it said, and may learn to."""
    found = dict(masters)
    up = found.get(f"{LENS}up.weight")
    if up is None:
        return found
    num_words, num_heads = found[f"{LENS}word_salience.weight"].shape[0], found[f"{LENS}match_weight"].shape[0]
    num_told = num_words + len(FEATURES)
    if (lacking := num_heads + num_told - up.shape[1]) > 0:
        found[f"{LENS}up.weight"] = torch.cat([up, up.new_zeros(len(up), lacking)], dim=1)
    if f"{LENS}told_weight" not in found:
        width = found[f"{LENS}query.weight"].shape[1]
        found[f"{LENS}told_weight"] = up.new_zeros(num_told)
        found[f"{LENS}trust.weight"], found[f"{LENS}trust.bias"] = up.new_zeros(num_told, width), up.new_zeros(num_told)
    return found


def core_prefix(masters: Mapping[str, Tensor]) -> str:
    """What stands before the core's names: nothing in a run of the core alone."""
    return "core." if any(name.startswith("core.") for name in masters) else ""


def load_checkpoint_nets(
    checkpoint: Mapping[str, Any], settings: Mapping[str, Any], *, earlier: Sequence[Mapping[str, Any]] = ()
) -> CoreNets:
    """The nets of a checkpoint in bfloat16: the core, the GistNet if the settings describe one, and the lens that was
    learned beside them, if there was one. earlier: the settings of the runs that this one went on from: what they drew
    was learned, too."""
    masters = with_all_features(all_masters(checkpoint))
    core = Core(CoreConfig(**settings["model"]))
    load_masters(core, masters, prefix=core_prefix(masters))
    stages = [stage for one in (settings, *earlier) for stage in one.get("stage", ())]
    longest = max((batch["length"] for stage in stages for batch in stage["batches"]), default=0)
    if "gist_net" not in settings:
        return CoreNets(core=core.to(torch.bfloat16).eval(), learned_positions=longest)
    gist_net = GistNet(GistNetConfig(**settings["gist_net"]))
    load_masters(gist_net, masters, prefix="gist_net.")
    lens_net = None
    if any(name.startswith(LENS) for name in masters):
        lens_net = LensNet(LensNetConfig(width=core.config.width)).to(torch.bfloat16).eval()
        load_masters(lens_net, masters, prefix=LENS)
    return CoreNets(
        core=core.to(torch.bfloat16).eval(),
        gist_net=gist_net.to(torch.bfloat16).eval(),
        lens_net=lens_net,
        learned_positions=longest,
        trained_shapes=trained_shapes({"stage": stages}),
    )


def trained_shapes(settings: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """The (block tokens, gist width) pairs that the stages of a configuration draw."""
    kinds = [kind for stage in settings.get("stage", ()) for kind in stage["batches"]]
    drawn = {(tokens, width) for kind in kinds for tokens, width in kind.get("gists", {}).get("shapes", ())}
    return tuple(sorted(drawn))


def settings_of(run: Path) -> Mapping[str, Any]:
    """The tables of the configuration that a run was last started with. InvalidValueError if it noted none."""
    settings = last_start(run).get("settings")
    if not isinstance(settings, dict) or "model" not in settings:
        raise InvalidValueError(f"{run / 'starts.jsonl'} says nothing of a [model]; give its configuration, --config")
    return settings


def drawn_before(folder: Path) -> Mapping[str, Any] | None:
    """What a model says it was taught, as a stage: its own runs and those before them. Or the stages of a run that
    another went on from, as its settings have them. None where neither is told."""
    if not (folder / "config.json").is_file():
        if not (folder / "starts.jsonl").is_file():
            return None
        settings = last_start(folder).get("settings")
        return settings if isinstance(settings, dict) else None
    try:
        config = dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    shapes, longest = config.get("trained_shapes", ()), config.get("learned_positions", 0)
    return {"stage": [{"batches": [{"length": longest, "gists": {"shapes": shapes}}]}]}


def export_checkpoint(
    run: Path, folder: Path, settings: Mapping[str, Any] | None = None, *, earlier: Sequence[Path] = ()
) -> dict[str, Any]:
    """Write the model folder of a run's checkpoint, with its logs and those of the runs that it went on from; what the
    run was at by then. settings: those that the run noted when it was last started, or others. What shapes and lengths
    were taught is what these drew, and the runs and models that it went on from."""
    checkpoint = read_checkpoint(run / "checkpoint.pt")
    settings = settings_of(run) if settings is None else settings
    shape: dict[str, Mapping[str, Any]] = {"model": asdict(CoreConfig(**settings["model"]))}
    if "gist_net" in settings:
        shape["gist_net"] = asdict(GistNetConfig(**settings["gist_net"]))
    same_nets(run / "checkpoint.pt", checkpoint.get("identity", {}), shape)
    nets = load_checkpoint_nets(
        checkpoint, settings, earlier=[drawn for one in earlier if (drawn := drawn_before(one)) is not None]
    )
    files = tokenizer_files(run / "data" / "tokenizer")
    with tempfile.TemporaryDirectory() as kept:
        logs = copy_run_logs([*earlier, run], Path(kept))
        write_core_folder(folder, nets, [*files, *logs], eos_token_id=END_OF_TEXT_ID)
    state: dict[str, Any] = checkpoint["state"]
    return state
