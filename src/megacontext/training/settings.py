"""Configuration files of training runs: TOML tables, each read into the dataclass that it configures.

A file may say ``extends = "other.toml"`` (beside it): its own tables then replace single keys of the other's; a list of
stages replaces the whole list. What no dataclass knows, and what it cannot be, is an error that names file, table and
key: a misspelt rate must not train for a day with the default.
"""

from __future__ import annotations

import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from megacontext.errors import InvalidValueError
from megacontext.nets.shapes import CoreConfig
from megacontext.training.curriculum import Stage
from megacontext.training.preparation import DOMAINS
from megacontext.values import number, shown, whole_number

__all__ = ["TABLES", "Settings", "read_settings"]

EXTENDS = "extends"
TABLES = ("model", "gist_net", "memory", "lens", "optim", "loop", "gate", "shares", "stage")
OPTIONAL = ("memory", "optim", "gate")  # every key has a default that is meant for every run
NUM_SPECIAL_AND_BYTES = 258  # what every tokenizer of ours has before it learns anything
LARGEST_VOCABULARY = 1 << 16  # token arrays are uint16

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """The tables of a configuration file, those it extends included. path: the file, for messages."""

    path: Path
    tables: Mapping[str, Any]

    def __contains__(self, name: str) -> bool:
        return name in self.tables

    def table(self, name: str) -> Mapping[str, Any]:
        """A table as it stands in the file, empty if it may be left out; else raises InvalidValueError if it is not
        there."""
        if name not in self.tables and name in OPTIONAL:
            return {}
        if name not in self.tables:
            raise InvalidValueError(f"{self.path} has no table [{name}]; add it")
        table = self.tables[name]
        if not isinstance(table, Mapping):
            raise InvalidValueError(f"{self.path}: {name} is {shown(table)}; write it as a table, [{name}]")
        return table

    def read(self, name: str, kind: type[T], **more: Any) -> T:
        """The dataclass that a table describes; ``more`` are fields that do not come from the file."""
        return _dataclass(kind, self.table(name), f"{self.path}: [{name}]", **more)

    @property
    def vocab_size(self) -> int:
        """Of the model, which the tokenizer is made for."""
        size = self.table("model").get("vocab_size", CoreConfig.vocab_size)
        if type(size) is not int or not NUM_SPECIAL_AND_BYTES <= size <= LARGEST_VOCABULARY:
            raise InvalidValueError(
                f"{self.path}: [model] vocab_size is {shown(size)}; choose a whole number from "
                f"{NUM_SPECIAL_AND_BYTES} (bytes and special tokens) to {LARGEST_VOCABULARY}"
            )
        return size

    @property
    def max_positions(self) -> int:
        """Of the model: no row may be longer."""
        return whole_number(
            f"{self.path}: [model] max_positions",
            self.table("model").get("max_positions", CoreConfig.max_positions),
            least=1,
        )

    @property
    def shares(self) -> dict[str, float]:
        """How often text of each domain is drawn."""
        where = f"{self.path}: [shares]"
        table = self.table("shares")
        _refuse_unknown(table, DOMAINS, where)
        shares = {name: number(f"{where} {name}", share, least=0) for name, share in table.items()}
        if sum(shares.values()) <= 0:
            raise InvalidValueError(f"{where} are all zero; give one of {', '.join(DOMAINS)} a share above 0")
        return shares

    def stages(self) -> tuple[Stage, ...]:
        """The curriculum, no row of it longer than the windows that the model is made for."""
        tables = self.tables.get("stage")
        if not isinstance(tables, list) or not tables:
            raise InvalidValueError(f"{self.path} has no [[stage]]; add at least one")
        stages = tuple(
            _dataclass(Stage, table, f"{self.path}: [[stage]] {_name_of(table, index)}")
            for index, table in enumerate(tables)
        )
        max_positions = self.max_positions
        for stage in stages:
            for batch in stage.batches:
                if batch.length > max_positions:
                    raise InvalidValueError(
                        f"{self.path}: [[stage]] {stage.name!r}, batch {batch.name!r} has length {batch.length}, but "
                        f"[model] max_positions is {max_positions}; shorten the one or raise the other"
                    )
        return stages


def read_settings(path: Path) -> Settings:
    """Read a file and those it extends; raises InvalidValueError for what is missing, no TOML, or of no known name."""
    return Settings(path, _read(path, ()))


def _read(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in extended_by:
        raise InvalidValueError(f"{path} extends itself; name another file in `{EXTENDS}`, or none")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        by = f", which {extended_by[-1].name} extends," if extended_by else ""
        raise InvalidValueError(
            f"{path}{by} is no file; give a configuration such as recipes/core/base.toml"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidValueError(f"{path} is not TOML: {error}; correct that place") from error
    _refuse_unknown(tables, (EXTENDS, *TABLES), f"{path}:", what="table")
    extends = tables.pop(EXTENDS, None)
    if extends is None:
        return tables
    if not isinstance(extends, str):
        raise InvalidValueError(f"{path}: {EXTENDS} is {shown(extends)}; give the name of one file beside this one")
    merged = _read(path.parent / extends, (*extended_by, path.resolve()))
    for name, table in tables.items():
        is_table = isinstance(table, dict) and isinstance(merged.get(name), dict)
        merged[name] = {**merged[name], **table} if is_table else table
    return merged


def _name_of(table: object, index: int) -> str:
    name = table.get("name") if isinstance(table, Mapping) else None
    return repr(name) if isinstance(name, str) else f"number {index + 1}"


def _refuse_unknown(given: Mapping[str, Any], known: Sequence[str], where: str, *, what: str = "key") -> None:
    for key in given:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}? known" if near else "known"
            raise InvalidValueError(f"{where} has an unknown {what} {key!r}; {hint}: {', '.join(known)}")


def _dataclass(kind: type[T], table: object, where: str, **more: Any) -> T:
    """An instance of a dataclass from a table, its fields checked against their annotations."""
    if not isinstance(table, Mapping):
        raise InvalidValueError(f"{where} is {shown(table)}; write it as a table")
    assert is_dataclass(kind)
    known = [field for field in fields(kind) if field.name not in more]
    _refuse_unknown(table, [field.name for field in known], where)
    for field in known:
        if field.name not in table and field.default is MISSING and field.default_factory is MISSING:
            raise InvalidValueError(f"{where} lacks {field.name}; add it")
    hints = get_type_hints(kind)
    values = {name: _value(hints[name], value, f"{where} {name}") for name, value in table.items()}
    try:
        made: T = kind(**values, **more)
    except InvalidValueError as error:
        raise InvalidValueError(f"{where}: {error}") from error
    return made


def _value(hint: Any, value: Any, where: str) -> Any:
    """A TOML value as the annotation has it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):  # of a kind and None, which TOML cannot say
        return _value(next(part for part in inner if part is not type(None)), value, where)
    if is_dataclass(hint):
        return _dataclass(hint, value, where)  # type: ignore[arg-type]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise InvalidValueError(f"{where} is {shown(value)}; write {{ name = value, ... }}")
        return {key: _value(inner[1], item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        if not isinstance(value, list):
            raise InvalidValueError(f"{where} is {shown(value)}; write a list, [...]")
        if origin is tuple and inner[-1] is not Ellipsis:
            if len(value) != len(inner):
                raise InvalidValueError(f"{where} is {shown(value)}; write {len(inner)} values")
            return tuple(_value(part, item, where) for part, item in zip(inner, value, strict=True))
        return tuple(_value(inner[0], item, f"{where} {_name_of(item, index)}") for index, item in enumerate(value))
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}
        raise InvalidValueError(f"{where} is {shown(value)}; write {names[hint]}")
    return value
