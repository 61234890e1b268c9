"""From a training checkpoint to nets, and to a folder that opens as a base."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from megacontext.bases.core_config import check_core_config
from megacontext.bases.core_folder import CoreNets, write_core_folder
from megacontext.bases.traits import CORE_TYPE
from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import FEATURES, CoreConfig, GistNetConfig, LensNetConfig
from megacontext.training.checkpoint import all_masters, differences, identity, read_checkpoint, same_nets
from megacontext.training.export import tokenizer_files
from megacontext.training.run_logs import copy_run_logs, last_start
from megacontext.training.settings import Settings
from megacontext.training.tokens import read_tokenizer
from megacontext.values import shown, whole_number

__all__ = [
    "END_OF_TEXT_ID",
    "Drawn",
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
GIST_NET, LENS = "gist_net.", "lens_net."
OF_LENS = {f"{LENS}up.weight": 2, f"{LENS}word_salience.weight": 2, f"{LENS}match_weight": 1, f"{LENS}query.weight": 2}
STARTS = "starts.jsonl"


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
    if any(name not in found or found[name].ndim != num_dims for name, num_dims in OF_LENS.items()):
        return found  # there is none, or not all of it, which is said where it is loaded
    up = found[f"{LENS}up.weight"]
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


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What stages drew, and so taught: rows up to a length, and gists of (block tokens, gist width) pairs."""

    longest: int = 0
    shapes: frozenset[tuple[int, int]] = frozenset()

    @classmethod
    def of(cls, tables: Mapping[str, Any], path: Path, *, fix: str) -> Drawn:
        """From the tables of a configuration; of their stages no more is read than that. path: of the file.

        Raises InvalidValueError if they cannot be read.
        """
        longest, shapes = 0, set()
        for stage in _tables(tables, "stage", f"{path}: stage", fix) if "stage" in tables else ():
            for kind in _tables(stage, "batches", f"{path}: batches of a stage", fix):
                longest = max(longest, whole_number(f"{path}: length of a batch", kind.get("length"), least=1))
                cut = kind.get("gists", {})
                pairs = cut.get("shapes", []) if isinstance(cut, Mapping) else cut
                if not isinstance(pairs, list | tuple) or not all(map(_is_shape, pairs)):
                    raise InvalidValueError(
                        f"{path}: gists of a batch is {shown(cut)}, and shapes are pairs of block tokens and fewer or "
                        f"as many gist vectors; {fix}"
                    )
                shapes |= {(tokens, width) for tokens, width in pairs}
        return cls(longest=longest, shapes=frozenset(shapes))


def _tables(of: Mapping[str, Any], name: str, where: str, fix: str) -> list[Mapping[str, Any]]:
    found = of.get(name)
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        said = f"is {shown(found)}" if name in of else "is missing"
        raise InvalidValueError(f"{where} {said}, and has to be a list of tables; {fix}")
    return found


def _is_shape(pair: object) -> bool:
    is_pair = isinstance(pair, list | tuple) and len(pair) == 2 and all(type(one) is int for one in pair)
    return is_pair and 1 <= pair[1] <= pair[0]  # type: ignore[index]


def load_checkpoint_nets(
    checkpoint: Mapping[str, Any], settings: Settings, *, earlier: Sequence[Drawn] = ()
) -> CoreNets:
    """The nets of a checkpoint in bfloat16: the core, the GistNet if the settings describe one, and the lens that was
    learned beside them, if there was one. earlier: what the runs drew that this one went on from: it was learned, too.
    """
    masters = with_all_features(all_masters(checkpoint))
    core = Core(settings.read("model", CoreConfig))
    load_masters(core, masters, prefix=core_prefix(masters))
    drawn = [Drawn.of(settings.tables, settings.path, fix="give its configuration, --config"), *earlier]
    longest = min(max(one.longest for one in drawn), core.config.max_positions)
    if "gist_net" not in settings:
        return CoreNets(core=core.to(torch.bfloat16).eval(), learned_positions=longest)
    gist_net = GistNet(settings.read("gist_net", GistNetConfig))
    load_masters(gist_net, masters, prefix=GIST_NET)
    lens_net = None
    if any(name.startswith(LENS) for name in masters):
        lens_net = LensNet(LensNetConfig(width=core.config.width)).to(torch.bfloat16).eval()
        load_masters(lens_net, masters, prefix=LENS)
    return CoreNets(
        core=core.to(torch.bfloat16).eval(),
        gist_net=gist_net.to(torch.bfloat16).eval(),
        lens_net=lens_net,
        learned_positions=longest,
        trained_shapes=tuple(sorted(frozenset[tuple[int, int]]().union(*(one.shapes for one in drawn)))),
    )


def trained_shapes(settings: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """The (block tokens, gist width) pairs that the stages of a configuration draw."""
    kinds = [kind for stage in settings.get("stage", ()) for kind in stage["batches"]]
    drawn = {(tokens, width) for kind in kinds for tokens, width in kind.get("gists", {}).get("shapes", ())}
    return tuple(sorted(drawn))


def settings_of(run: Path) -> Settings:
    """The configuration that a run was last started with. InvalidValueError if it noted none."""
    settings = last_start(run).get("settings")
    if not isinstance(settings, dict) or "model" not in settings:
        raise InvalidValueError(f"{run / STARTS} says nothing of a [model]; give its configuration, --config")
    return Settings(run / STARTS, settings)


def drawn_before(folder: Path) -> Drawn | None:
    """What a model says that it was taught, by its own runs and those before them; or what a run drew that another went
    on from. None where neither is told; InvalidValueError or BaseModelError where it cannot be read."""
    file = folder / "config.json"
    if not file.is_file():
        settings = last_start(folder).get("settings") if (folder / STARTS).is_file() else None
        fix = f"leave {folder} out of --earlier"
        return Drawn.of(settings, folder / STARTS, fix=fix) if isinstance(settings, dict) else None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    if config.get("model_type") != CORE_TYPE:
        return Drawn()
    check_core_config(config, file)
    return Drawn(
        longest=config.get("learned_positions", 0),
        shapes=frozenset((tokens, width) for tokens, width in config.get("trained_shapes", ())),
    )


def export_checkpoint(
    run: Path, folder: Path, settings: Settings | None = None, *, earlier: Sequence[Path] = ()
) -> dict[str, Any]:
    """Write the model folder of a run's checkpoint, with its logs and those of the runs that it went on from; what the
    run was at by then. settings: those that the run noted when it was last started, or others. What shapes and lengths
    were taught is what these drew, and the runs and models that it went on from.

    Everything is read before anything is written. Raises InvalidValueError for settings that cannot be or are of other
    nets, and for another tokenizer than that of the run; CorruptionError for a damaged file.
    """
    path = run / "checkpoint.pt"
    checkpoint = read_checkpoint(path)
    settings = settings_of(run) if settings is None else settings
    config = settings.read("model", CoreConfig)
    shape: dict[str, Mapping[str, Any]] = {"model": asdict(config)}
    if "gist_net" in settings:
        shape["gist_net"] = asdict(settings.read("gist_net", GistNetConfig))
    elif any(name.startswith(GIST_NET) for name in all_masters(checkpoint)):
        raise InvalidValueError(
            f"{path} holds a GistNet, but {settings.path} has no [gist_net]; give --config of the run itself"
        )
    before = checkpoint.get("identity", {})
    same_nets(path, before, shape)
    nets = load_checkpoint_nets(
        checkpoint, settings, earlier=[drawn for one in earlier if (drawn := drawn_before(one)) is not None]
    )
    tokenizer = run / "data" / "tokenizer"
    files = tokenizer_files(tokenizer, vocab_size=config.vocab_size)
    if changed := differences(before, identity({}, read_tokenizer(tokenizer), {})):
        raise InvalidValueError(f"{path} is not of {tokenizer}: {'; '.join(changed)}; put back that of the run")
    with tempfile.TemporaryDirectory() as kept:
        logs = copy_run_logs([*earlier, run], Path(kept))
        write_core_folder(folder, nets, [*files, *logs], eos_token_id=END_OF_TEXT_ID)
    state: dict[str, Any] = checkpoint["state"]
    return state
