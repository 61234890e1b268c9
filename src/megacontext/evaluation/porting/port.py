"""``megacontext port``: load a model, check it, measure what gists are worth to it, choose its defaults, and write them
down with their reasons."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import megacontext
from megacontext.bases.describing import DTYPE_BYTES, Traits, describe, describe_core, whole_config
from megacontext.bases.profiles import PROFILE_FILE
from megacontext.bases.registry import BUNDLED_FOLDER, BaseHandle
from megacontext.bases.traits import CORE_TYPE
from megacontext.errors import InvalidValueError
from megacontext.evaluation.library import shipped_books
from megacontext.evaluation.porting.checks import LIMITS, CheckResult, Probe, check_base, compare_precision
from megacontext.evaluation.porting.choosing import Choices, choose
from megacontext.evaluation.porting.footprint import Cost, measure_cost, total_bytes
from megacontext.evaluation.porting.measuring import Measurement, Norms, Plan, measure_norms, measure_shapes
from megacontext.evaluation.porting.report import markdown, profile_toml
from megacontext.evaluation.porting.room import check_room
from megacontext.evaluation.stamp import stamp
from megacontext.machine import memory_bytes
from megacontext.ports.base import Base, BaseInfo, SupportsPatch
from megacontext.storage.faults import os_faults

__all__ = ["PortConfig", "Ported", "port"]

# A second copy in float32 is loaded to compare with where it takes at most this share of the memory.
MOST_COMPARED = 0.25
# Where in the first shipped novel the text of checks and norms begins, and how much of it is read.
SAMPLE_START, SAMPLE_CHARS = 5_000, 12_000

OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class PortConfig:
    """out: folder of config and report; is_quick: a first look in a minute; installs: also write the config into the
    model's folder, where everything that opens the model finds it."""

    base: str
    out: Path = Path("configs/bases")
    dtype: str = "auto"
    device: str = "auto"
    is_quick: bool = False
    installs: bool = False


@dataclass(frozen=True, kw_only=True)
class Ported:
    """What was found. choices, measured and plan: None if a check failed; files: what was written."""

    info: BaseInfo
    traits: Traits
    family: str
    num_parameters: int
    kv: str
    checks: tuple[CheckResult, ...]
    cost: Cost
    norms: tuple[Norms, ...]
    plan: Plan | None
    measured: Measurement | None
    choices: Choices | None
    is_quick: bool
    stamp: Mapping[str, object]
    version: str
    files: tuple[Path, ...] = ()

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed and that nothing but another model helps against."""
        return failed(self.checks)


def failed(checks: Sequence[CheckResult]) -> list[str]:
    """Names of the checks that failed, but for a precision that is too coarse: float32 is chosen then."""
    return [check.name for check in checks if not check.passed and check.name != "precision"]


def port(config: PortConfig, *, on_step: OnStep) -> Ported:
    """Port a base. A model that fails a check gets a report and no config.

    on_step: told what is done now, and how far it is. Raises BaseModelError, UnknownNameError, InvalidValueError;
    StorageFullError.
    """
    handle = BaseHandle(config.base, dtype=config.dtype, device=config.device, own_profile=False)
    if config.installs and BUNDLED_FOLDER in handle.folder.parents:
        raise InvalidValueError(f"{config.base} is bundled and brings its own defaults; leave out --install")
    for folder in (config.out, *([handle.folder] if config.installs else [])):
        _check_writable(folder)  # before minutes of work, not behind them
    check_room(handle.info)
    on_step("loading", 0, 1)
    base = handle.load()
    sample = shipped_books()[0].text[SAMPLE_START:][:SAMPLE_CHARS]
    on_step("checking", 0, 1)
    checks = [*check_base(base, sample), _precision(handle, base, sample, config.device)]
    on_step("measuring speed", 0, 1)
    cost = measure_cost(base)
    norms: Sequence[Norms] = ()
    plan = measured = choices = None
    if not failed(checks):
        norms = measure_norms(base, sample)
        plan = Plan.of(base.info, tokens_per_second=cost.prefill, is_quick=config.is_quick)
        what = f"measuring gists (about {_duration(plan.seconds)})"
        measured = measure_shapes(base, plan, on_step=lambda number, total: on_step(what, number, total))
        choices = choose(base.info, measured, cost, checks)
    profile = handle.profile
    traits = _traits(handle, base, cost)
    ported = Ported(
        info=base.info,
        traits=traits,
        family=profile.family if profile is not None else traits.model_type,
        num_parameters=cost.weight_bytes // DTYPE_BYTES[base.info.dtype],
        kv="patch" if isinstance(base, SupportsPatch) and base.can_patch else "exact",
        checks=tuple(checks),
        cost=cost,
        norms=tuple(norms),
        plan=plan,
        measured=measured,
        choices=choices,
        is_quick=config.is_quick,
        stamp=stamp(),
        version=megacontext.__version__,
    )
    return _written(ported, config, handle.folder)


def _precision(handle: BaseHandle, base: Base, sample: str, device: str) -> CheckResult:
    """Against the same weights in float32, where there is room for them."""
    dtype = base.info.dtype
    limit, needed = LIMITS[dtype], 0
    if dtype != "float32":
        stored = sum(file.stat().st_size for file in handle.folder.glob("*.safetensors"))
        needed = stored * DTYPE_BYTES["float32"] // DTYPE_BYTES[dtype]
    why = "runs in float32"
    if dtype != "float32":
        rooms = [memory for memory in (memory_bytes(), total_bytes(base.info.device)) if memory]
        if needed <= MOST_COMPARED * min(rooms, default=0):
            exact = BaseHandle(handle.name, dtype="float32", device=device, own_profile=False).load()
            return compare_precision(Probe.of_text(base, sample), exact)
        why = f"float32 weights would take more than {MOST_COMPARED:.0%} of the memory; not compared"
    return CheckResult(name="precision", passed=True, error=None, limit=limit, detail=why)


def _traits(handle: BaseHandle, base: Base, cost: Cost) -> Traits:
    if handle.config.get("model_type") == CORE_TYPE:
        return describe_core(handle.config, numbers_per_entry=cost.entry_bytes // DTYPE_BYTES[base.info.dtype])
    return describe(whole_config(handle.published_config, handle.name))


def _check_writable(folder: Path) -> None:
    """Raise now what ``_written`` would behind minutes of work; nothing is made yet."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise InvalidValueError(f"{there} is a file; give a folder with --out")
    with os_faults(f"writing into {there}"), tempfile.TemporaryFile(dir=there):
        pass


def _written(ported: Ported, config: PortConfig, folder: Path) -> Ported:
    """The same, after its page and its config were written."""
    name = re.sub(r"[^\w.-]", "-", Path(ported.info.name).name).lower()
    pages = {config.out / f"{name}.md": markdown(ported)}
    if ported.choices is not None:
        pages[config.out / f"{name}.toml"] = profile_toml(ported)
        if config.installs:
            pages[folder / PROFILE_FILE] = pages[config.out / f"{name}.toml"]
    for path, content in pages.items():
        with os_faults(f"writing {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f"{path.name}.new")
            new.write_text(content, encoding="utf-8")
            new.replace(path)
    return Ported(**{**vars(ported), "files": tuple(pages)})


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
