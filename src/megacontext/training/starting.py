"""What a run begins with: nothing, a checkpoint, a plain model, or a core with or without its GistNet and lens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import isclose
from pathlib import Path

import torch
from torch import Tensor

from megacontext.bases.core_folder import read_core_folder
from megacontext.bases.registry import BUNDLED, BUNDLED_FOLDER
from megacontext.bases.traits import CORE_TYPE
from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.shapes import CoreConfig, GistNetConfig
from megacontext.training.checkpoint import all_masters, read_checkpoint
from megacontext.training.core_export import core_prefix, load_masters, with_all_features
from megacontext.training.core_import import load_model, read_config
from megacontext.training.memory_model import MemoryLearner
from megacontext.training.tokens import TOKENIZER

__all__ = ["Beginning"]

FREE = ("max_positions", "learns_sigma")  # that a run may say otherwise than the model that it begins with
BESIDE = ("gist_net.", "reconstructor.", "index_head.", "lens_net.")  # names that are not the core's


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """Weights to begin with.

    path: as it was given; checkpoint: a file of a run; folder: a model; masters: the weights of a core and what was
    taught with it by name, empty for a plain model.
    """

    path: Path | None = None
    checkpoint: Path | None = None
    folder: Path | None = None
    masters: Mapping[str, Tensor] = field(default_factory=dict)
    config: CoreConfig | None = None
    gist_config: GistNetConfig | None = None

    @classmethod
    def read(cls, path: Path | None) -> Beginning:
        """From a checkpoint, a model folder, or the name of a bundled model.

        Raises InvalidValueError for what is none of them, CorruptionError or BaseModelError if it is damaged.
        """
        if path is None:
            return cls()
        if not path.exists() and str(path) not in BUNDLED:
            raise InvalidValueError(
                f"--start {path} is neither a file nor a folder; give the checkpoint.pt of a run, the folder of a "
                f"model, or the name of a bundled one: {', '.join(BUNDLED)}"
            )
        if not path.is_dir() and str(path) not in BUNDLED:
            return cls(path=path, checkpoint=path, masters=with_all_features(all_masters(read_checkpoint(path))))
        folder = path if path.is_dir() else BUNDLED_FOLDER / BUNDLED[str(path)]
        if read_config(folder).get("model_type") != CORE_TYPE:
            return cls(path=path, folder=folder)
        nets = read_core_folder(folder, dtype=torch.float32, device=torch.device("cpu"))
        named = {"core": nets.core, "gist_net": nets.gist_net, "lens_net": nets.lens_net}
        masters = {
            f"{prefix}.{name}": weight.detach()
            for prefix, net in named.items()
            if net is not None
            for name, weight in net.named_parameters()
        }
        gist_config = None if nets.gist_net is None else nets.gist_net.config
        masters = with_all_features(masters)
        return cls(path=path, folder=folder, masters=masters, config=nets.core.config, gist_config=gist_config)

    @property
    def tokenizer(self) -> Path | None:
        """The folder of the tokenizer that the weights know: the model's, or that of the run beside its checkpoint.

        None if nothing is begun with, or a checkpoint was taken away from its run.
        """
        if self.checkpoint is None:
            return self.folder
        beside = self.checkpoint.parent / "data" / "tokenizer"
        return beside if (beside / TOKENIZER).exists() else None

    def fill(self, core: Core) -> None:
        """Give a core its first weights; InvalidValueError if it is of another shape."""
        if self.folder is not None and not self.masters:
            load_model(core, self.folder)
            return
        if self.config is not None:
            _refuse_other("model", self.config, core.config, self.path)
        if self.masters:
            prefix = core_prefix(self.masters)
            scale = self.masters.get(f"{prefix}log_sigma_scale")
            if not core.config.learns_sigma and scale is not None and float(scale):
                raise InvalidValueError(
                    f"learns_sigma is false, but {self.path} has learned a factor on sigma; set it to true in [model]"
                )
            fresh = {f"{prefix}log_sigma_scale": core.log_sigma_scale.detach().clone()}  # of one that learned none
            load_masters(core, fresh | dict(self.masters), prefix=prefix)

    def fill_memory(self, learner: MemoryLearner) -> None:
        """Give GistNet, reconstructor and lens theirs, where there are any; InvalidValueError if they are of another
        shape, also where weights would fit."""
        if self.gist_config is not None:
            _refuse_other("gist_net", self.gist_config, learner.gist_net.config, self.path)
        nets = {
            "gist_net.": learner.gist_net,
            "reconstructor.": learner.reconstructor,
            "lens_net.": learner.lens_net,
        }
        for prefix, net in nets.items():
            if net is not None and any(name.startswith(prefix) for name in self.masters):
                load_masters(net, self.masters, prefix=prefix)

    def first_masters(self, names: Iterable[str], *, core: str) -> dict[str, Tensor]:
        """What the masters of a run begin with, by the run's names: the float32 of a checkpoint, which weights in
        bfloat16 round. core: what stands before the core's names in the run."""
        theirs = core_prefix(self.masters)
        found = {}
        for name in names:
            is_core = name.startswith(core) and not name.startswith(BESIDE)
            known = f"{theirs}{name.removeprefix(core)}" if is_core else name
            if known in self.masters:
                found[name] = self.masters[known]
        return found


def _refuse_other(
    table: str, wanted: CoreConfig | GistNetConfig, given: CoreConfig | GistNetConfig, path: Path | None
) -> None:
    for name, needed in asdict(wanted).items():
        value = getattr(given, name)
        if name in FREE or value == needed or (isinstance(value, float) and isclose(value, needed)):
            continue
        raise InvalidValueError(f"{name} is {value}, but that of {path} is {needed}; change [{table}]")
