"""What a run begins with: nothing, a checkpoint, a plain model, or a core with or without its GistNet and lens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isclose
from pathlib import Path

import torch
from torch import Tensor

from megacontext.bases.core_folder import read_core_folder
from megacontext.bases.registry import BUNDLED, BUNDLED_FOLDER
from megacontext.bases.traits import CORE_TYPE
from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core, CoreConfig
from megacontext.training.checkpoint import read_checkpoint
from megacontext.training.core_export import core_prefix, load_masters
from megacontext.training.core_import import load_model, read_config
from megacontext.training.memory_model import MemoryLearner
from megacontext.training.tokens import TOKENIZER

__all__ = ["Beginning"]


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
            return cls(path=path, checkpoint=path, masters=read_checkpoint(path)["optimizer"]["masters"])
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
        return cls(path=path, folder=folder, masters=masters, config=nets.core.config)

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
            for name, needed in asdict(self.config).items():
                given = getattr(core.config, name)
                if name in ("max_positions", "learns_sigma") or given == needed:
                    continue
                if isinstance(given, float) and isclose(given, needed):
                    continue
                raise InvalidValueError(f"{name} is {given}, but that of {self.path} is {needed}; change [model]")
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
        """Give GistNet, reconstructor and lens theirs, where there are any."""
        nets = {
            "gist_net.": learner.gist_net,
            "reconstructor.": learner.reconstructor,
            "lens_net.": learner.lens_net,
        }
        for prefix, net in nets.items():
            if net is not None and any(name.startswith(prefix) for name in self.masters):
                load_masters(net, self.masters, prefix=prefix)
