"""What is known of a base beyond its weights: its traits, what is published of it, and the defaults that were measured
to suit it. One TOML file per base, written by ``megacontext port`` or shipped (``published/``); no torch is needed.

    format = 1
    name = "..."            the id or folder it was written for
    family = "..."
    num_parameters = ...    of the part that reads text
    kv = "patch"            how a window follows a refocus: "patch" or "exact"
    note = "..."            optional
    [traits]                see ``describing.Traits``
    [published]             sources, is_verified, why_not: where the values of [config] stand
    [config]                the published config.json without what is no matter here; nulls: its keys that say null
    [measured]              fingerprint, dtype, device, date, megacontext: of which weights, where and when
    [defaults]              see ``ports.base.BaseDefaults``; a key that is not there is as anywhere else
    [reasons]               one sentence for each default
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megacontext.bases.describing import Traits, traits_from
from megacontext.errors import BaseModelError, UsageError
from megacontext.ports.base import BaseDefaults
from megacontext.values import shown

__all__ = ["PROFILE_FILE", "BaseProfile", "find_profile", "published_profiles", "read_profile"]

FORMAT = 1
# A model's folder may hold the config that was written for it.
PROFILE_FILE = "megacontext.toml"
PUBLISHED_FOLDER = Path(__file__).parent / "published"


@dataclass(frozen=True, kw_only=True)
class BaseProfile:
    """One such file. fingerprint: of the base that was measured, '' if none was; config: as published, if it is."""

    name: str
    family: str
    num_parameters: int
    kv: str
    traits: Traits
    note: str = ""
    sources: tuple[str, ...] = ()
    is_verified: bool = False
    why_not: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict)
    defaults: BaseDefaults = field(default_factory=BaseDefaults)
    reasons: Mapping[str, str] = field(default_factory=dict)


def read_profile(path: Path) -> BaseProfile:
    """A config of a base; BaseModelError in one line for a file that is none."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"{path}: not readable as TOML ({shown(error)}); write it again with `megacontext port`"
        ) from error
    if content.get("format") != FORMAT:
        raise BaseModelError(
            f"{path}: is of format {shown(content.get('format'))}, this version reads {FORMAT}; write it again with "
            "`megacontext port`"
        )
    published, measured = _table(path, content, "published"), _table(path, content, "measured")
    return BaseProfile(
        name=_value(path, content, "name", str),
        family=_value(path, content, "family", str),
        num_parameters=_value(path, content, "num_parameters", int),
        kv=_value(path, content, "kv", str),
        traits=traits_from(_table(path, content, "traits"), str(path)),
        note=content.get("note", ""),
        sources=tuple(published.get("sources", ())),
        is_verified=bool(published.get("is_verified", False)),
        why_not=published.get("why_not", ""),
        config=_with_nulls(_table(path, content, "config")),
        fingerprint=_value(path, measured, "fingerprint", str) if measured else "",
        measured=measured,
        defaults=_defaults(path, _table(path, content, "defaults")),
        reasons=_table(path, content, "reasons"),
    )


@functools.cache
def published_profiles() -> tuple[BaseProfile, ...]:
    """The shipped ones, by family and size."""
    profiles = [read_profile(path) for path in PUBLISHED_FOLDER.glob("*.toml")]
    return tuple(sorted(profiles, key=lambda profile: (profile.family.lower(), profile.num_parameters)))


def find_profile(name: str, folder: Path, *, own: bool = True) -> BaseProfile | None:
    """What is known of a base: the ``megacontext.toml`` in its folder (own), else the shipped one for its name."""
    path = folder / PROFILE_FILE
    if own and path.is_file():
        return read_profile(path)
    path = PUBLISHED_FOLDER / f"{name.rpartition('/')[2].lower()}.toml"
    profile = read_profile(path) if path.is_file() else None
    return profile if profile is not None and profile.name == name else None


def _defaults(path: Path, table: Mapping[str, Any]) -> BaseDefaults:
    try:
        return BaseDefaults(**table)
    except (TypeError, UsageError) as error:
        raise BaseModelError(f"{path}: [defaults]: {error}; correct it, or write it with `megacontext port`") from error


def _with_nulls(config: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has no null: the keys that a config.json sets to null are listed."""
    nulls = dict.fromkeys(config.get("nulls", ()))
    return {**{key: value for key, value in config.items() if key != "nulls"}, **nulls}


def _table(path: Path, content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = content.get(key, {})
    if not isinstance(found, Mapping):
        raise BaseModelError(f"{path}: {key} is {shown(found)}, expected a table [{key}]; correct it")
    return found


def _value(path: Path, content: Mapping[str, Any], key: str, kind: type) -> Any:
    found = content.get(key)
    if type(found) is not kind:
        raise BaseModelError(f"{path}: {key} is {shown(found)}, expected {kind.__name__}; correct it")
    return found
