"""A native core on disk: one folder with configuration, tokenizer and the weights of up to three nets.

    config.json             shape of each net, the sha256 of each weights file, and what GistNet was taught with
    core.safetensors        the decoder
    gist_net.safetensors    what makes gists for it, if it learned memory
    lens_net.safetensors    what scores entries for it, likewise
    tokenizer.json
    megacontext.json        the question template

What else stands there, and what becomes of it, is told in ``core_keeping.py``. Everything is checked before a weight is
used, and a folder is written in one move.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from megacontext.bases.core_config import check_core_config, shape_of
from megacontext.bases.core_keeping import CONFIG_FILE, carry_over, check_place, place_of_before, stored_config
from megacontext.bases.traits import CORE_TYPE
from megacontext.bases.weight_files import check_tensors, check_weights, file_digest
from megacontext.bases.weight_values import is_finite
from megacontext.errors import BaseModelError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.values import shown

__all__ = ["CoreNets", "read_core_folder", "write_core_folder", "write_lens"]

NETS: dict[str, Callable[[Any], nn.Module]] = {"core": Core, "gist_net": GistNet, "lens_net": LensNet}


@dataclass(frozen=True, kw_only=True)
class CoreNets:
    """A core and what was taught with it.

    learned_positions: as in ``BaseInfo``; trained_shapes: the (block tokens, gist width) pairs that GistNet was taught
    with, none if nobody knows.
    """

    core: Core
    gist_net: GistNet | None = None
    lens_net: LensNet | None = None
    learned_positions: int = 0
    trained_shapes: tuple[tuple[int, int], ...] = ()


def write_core_folder(folder: Path, nets: CoreNets, files: list[Path], *, eos_token_id: int) -> None:
    """Write a folder beside the wanted place and move it there: a half-written one is never read.

    files: the tokenizer, and what else is to stand there. A core that is there is replaced; of what stands beside it,
    nothing is lost (``core_keeping.py``). A lens stays where core and GistNet are those that it was taught beside.
    Raises InvalidValueError if something else is there; it stays as it is.
    """
    folder = folder.resolve()  # where a link leads
    check_place(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config: dict[str, Any] = {
        "model_type": CORE_TYPE,
        "vocab_size": nets.core.config.vocab_size,
        "max_position_embeddings": nets.core.config.max_positions,
        "eos_token_id": eos_token_id,
        "dtype": str(nets.core.embed_tokens.weight.dtype).removeprefix("torch."),
        "weights": {},
    }
    if nets.learned_positions:
        config["learned_positions"] = nets.learned_positions
    for name in NETS:
        net = getattr(nets, name)
        if net is not None:
            config[name] = dataclasses.asdict(net.config)
            config["weights"][name] = _save(net, partial / f"{name}.safetensors")
    if nets.gist_net is not None and nets.trained_shapes:
        config["trained_shapes"] = sorted(nets.trained_shapes)
    for source in files:
        shutil.copyfile(source, partial / source.name)
    changed = _changed_nets(folder, partial, config)
    _write_config(partial, config)
    if folder.exists():
        carry_over(folder, partial, changed=changed)
        folder.replace(place_of_before(folder))
    partial.replace(folder)
    shutil.rmtree(place_of_before(folder), ignore_errors=True)


def write_lens(folder: Path, lens_net: LensNet) -> None:
    """Give the core of a folder another lens. All else stays to the byte: memories know GistNet by its file.

    The folder opens at every moment, for a moment without a lens. BaseModelError if it holds no core.
    """
    config = _read_config(folder, with_lens=False)
    file = folder / "lens_net.safetensors"
    partial = file.with_name(f"{file.name}.partial")
    digest = _save(lens_net, partial)
    weights = {name: known for name, known in config["weights"].items() if name != "lens_net"}
    if "lens_net" in config:
        _write_config(
            folder, {name: said for name, said in config.items() if name != "lens_net"} | {"weights": weights}
        )
    partial.replace(file)
    told = {"lens_net": dataclasses.asdict(lens_net.config), "weights": {**weights, "lens_net": digest}}
    _write_config(folder, config | told)


def read_core_folder(folder: Path, *, dtype: torch.dtype, device: torch.device, with_lens: bool = True) -> CoreNets:
    """The nets of a folder in evaluation mode; with_lens: also its LensNet, if it has one.

    BaseModelError names the file, what is wrong with it and what to do.
    """
    config = _read_config(folder, with_lens=with_lens)
    nets: dict[str, Any] = {
        name: _read_net(folder, name, config).to(device, dtype).eval()
        for name in NETS
        if name in config and (with_lens or name != "lens_net")
    }
    return CoreNets(
        **nets,
        learned_positions=config.get("learned_positions", 0),
        trained_shapes=tuple(map(tuple, config.get("trained_shapes", ()))),
    )


def _read_config(folder: Path, *, with_lens: bool) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{folder / CONFIG_FILE}: not readable ({error}); copy the folder again") from error
    if not isinstance(config, dict):
        raise BaseModelError(f"{folder / CONFIG_FILE}: holds {shown(config)}; copy the folder again")
    check_core_config(config, folder / CONFIG_FILE, with_lens=with_lens)
    return config


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    partial = folder / f"{CONFIG_FILE}.partial"
    partial.write_text(json.dumps(config, indent=2) + "\n")
    partial.replace(folder / CONFIG_FILE)


def _save(net: nn.Module, file: Path) -> str:
    """Write the weights of a net; the sha256 of their file. Who may read it is up to the process, as for other files:
    the library would let nobody but its owner."""
    file.touch()
    mode = file.stat().st_mode
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, file)
    file.chmod(mode)
    return file_digest(file)


def _changed_nets(folder: Path, partial: Path, config: dict[str, Any]) -> set[str]:
    """The nets that are others than those of the folder that is replaced. A lens that was taught beside this very core
    and GistNet, and comes with none, stays: it is copied, and ``config`` tells of it."""
    before = stored_config(folder)
    known = before.get("weights")
    digests = known if isinstance(known, dict) else {}
    changed = {name for name in NETS if digests.get(name) != config["weights"].get(name)}
    lens = folder / "lens_net.safetensors"
    if changed != {"lens_net"} or "lens_net" in config or "lens_net" not in before or not lens.is_file():
        return changed
    if file_digest(lens) != digests["lens_net"]:
        return changed
    shutil.copy2(lens, partial / lens.name)
    config["lens_net"], config["weights"]["lens_net"] = before["lens_net"], digests["lens_net"]
    return set()


def _read_net(folder: Path, name: str, config: Mapping[str, Any]) -> nn.Module:
    file = folder / f"{name}.safetensors"
    shape = shape_of(config, name, folder / CONFIG_FILE)
    check_weights(file, config["weights"][name])
    check_tensors(file, shape.weights)
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise BaseModelError(f"{file}: not a readable safetensors file ({error}); copy it again") from error
    for key, tensor in state.items():
        if not is_finite(tensor):
            raise BaseModelError(f"{file}: {key} holds NaN or infinity; copy the folder again, or export it again")
    with torch.device("meta"):
        net = NETS[name](shape)
    net.load_state_dict(state, assign=True)
    return net
