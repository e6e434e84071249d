"""Strict conversion between frozen dataclasses and the JSON that stands in a file.

A config that is in memory is the config that is in the file: `to_dict` and `from_dict` are inverse, an unknown key is
an error, and so is a missing one, a number of the wrong kind or a list of the wrong length. What a value may be beyond
its type is checked by the dataclass itself, in `__post_init__`, with `check`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A config is not of the form that its schema asks for; the message names the key."""


def check(ok: bool, key: str, value: object, want: str) -> None:
    """Raise `ConfigError` unless `ok`: `key` is `value`, and should be `want`."""
    if not ok:
        raise ConfigError(f"{key} is {value!r}, should be {want}")


def check_int(key: str, value: int, low: int, high: int) -> None:
    """Raise `ConfigError` unless `low <= value <= high`."""
    check(low <= value <= high, key, value, f"from {low} to {high}")


def to_dict(config: Any) -> dict[str, Any]:
    """Dataclass to plain JSON values (dict, list, str, int, float, bool, None). Fields that are None are left out."""
    return {f.name: _plain(v) for f in dataclasses.fields(config) if (v := getattr(config, f.name)) is not None}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value


def from_dict(cls: type[T], data: Any, *, ignore_unknown: bool = False, key: str = "") -> T:
    """Build the dataclass `cls` from plain JSON values.

    Args:
        data: what `to_dict` gives.
        ignore_unknown: pass over keys that `cls` does not have (files of a newer minor version).
        key: where `data` stands, for messages.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type or range.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{key or cls.__name__} is {_short(data)}, should be an object")
    kind: type = cls
    fields, hints = _schema(kind)
    prefix = f"{key}." if key else ""
    if not ignore_unknown:
        for name in data:
            if name not in fields:
                raise ConfigError(f"{prefix}{_short(name)} is not a known key; known are {', '.join(fields)}")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], ignore_unknown, prefix + name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{prefix}{name} is missing")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from None


@cache
def _schema(cls: type) -> tuple[dict[str, dataclasses.Field[Any]], dict[str, Any]]:
    return {f.name: f for f in dataclasses.fields(cls)}, typing.get_type_hints(cls)


def _convert(hint: Any, value: Any, ignore_unknown: bool, key: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):  # only `X | None` is used
        inner = next(a for a in args if a is not types.NoneType)
        return None if value is None else _convert(inner, value, ignore_unknown, key)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, ignore_unknown=ignore_unknown, key=key)
    if origin is tuple:
        return _convert_tuple(args, value, ignore_unknown, key)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{key} is {_short(value)}, should be an object")
        return {str(k): _convert(args[1], v, ignore_unknown, f"{key}.{_short(k)}") for k, v in value.items()}
    if hint is Any:
        return value
    if hint is float and type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ConfigError(f"{key} is {_short(value)}, should be a finite number")
        return number
    if type(value) is not hint:  # `type`, not isinstance: JSON's true is no number
        raise ConfigError(f"{key} is {_short(value)}, should be {hint.__name__}")
    return value


def _convert_tuple(args: tuple[Any, ...], value: Any, ignore_unknown: bool, key: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{key} is {_short(value)}, should be a list")
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise ConfigError(f"{key} has {len(value)} values, should have {len(args)}")
    return tuple(
        _convert(a, v, ignore_unknown, f"{key}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True))
    )


def _short(value: object) -> str:
    """`repr`, cut: what stands in a damaged file can be megabytes."""
    text = repr(value)[:200] if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
