"""Recipes: small TOML files of a model's settings. Unknown keys and bad values are refused, with the nearest key."""

from __future__ import annotations

import difflib
import operator
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tesserec.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

C = TypeVar("C", bound=BaseModel)


def load_recipe(config: type[C], path: Path | None = None, sets: Sequence[str] = ()) -> C:
    """Settings from a TOML file and ``key=value`` overrides over the model's defaults.

    Parameters
    ----------
    config
        The model's settings class.
    path
        TOML file, tables nested as the settings are; None for the defaults alone.
    sets
        Overrides such as ``"training.epochs=3"``; values are TOML, or text where they are not.

    Raises
    ------
    ConfigError
        Names the unknown key and the nearest known one, or the key whose value is refused.
    """
    values = _read(path) if path else {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {text!r} is not of the form key=value, such as training.epochs=3")
        _assign(values, key.strip(), _value(value.strip()))
    known = set(keys(config))
    for key in _flat(values):
        if key not in known:
            raise ConfigError(_unknown(key, known))
    try:
        return config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key, why = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
        # A check of several settings together names them itself.
        together = first["type"] == "value_error" and isinstance(first["input"], dict)
        raise ConfigError(why if together else f"{key} = {first['input']!r} is refused: {why}") from None


def keys(config: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a settings class."""
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def by_key(config: BaseModel) -> dict[str, Any]:
    """Every dotted key of some settings with its value."""
    return {key: operator.attrgetter(key)(config) for key in keys(type(config))}


def origins(config: BaseModel, path: Path | None, sets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Every setting with its ``value`` and where it is ``from``: ``default``, ``recipe`` or ``set``."""
    given = {text.partition("=")[0].strip() for text in sets}
    default, from_recipe = by_key(type(config)()), by_key(load_recipe(type(config), path))
    found = {}
    for key, value in by_key(config).items():
        changed = from_recipe[key] != default[key]
        found[key] = {"value": value, "from": "set" if key in given else "recipe" if changed else "default"}
    return found


def to_toml(config: BaseModel) -> str:
    """The settings as a recipe file."""
    values = config.model_dump()
    lines = [f"{key} = {_literal(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for key, table in values.items():
        if isinstance(table, dict):
            lines += ["", f"[{key}]", *(f"{name} = {_literal(value)}" for name, value in table.items())]
    return "\n".join(lines).strip() + "\n"


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text())
    except FileNotFoundError:
        raise ConfigError(f"recipe {path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} is not valid TOML: {error}") from None


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key}: {part!r} is a setting, not a group of settings")
    values[last] = value


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _unknown(key: str, known: set[str]) -> str:
    by_name = {name.rsplit(".", 1)[-1]: name for name in known}
    last = key.rsplit(".", 1)[-1]
    close = [by_name[last]] if last in by_name else difflib.get_close_matches(key, known, 1, 0.5)
    close = close or [by_name[name] for name in difflib.get_close_matches(last, by_name, 1, 0.5)]
    keys_there_are = f"known keys: {', '.join(sorted(known))}" if known else "this model has no settings"
    hint = f"did you mean {close[0]!r}?" if close else keys_there_are
    return f"unknown setting {key!r}; {hint}"
