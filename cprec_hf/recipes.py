"""Recipes: YAML files that hold only what differs from the defaults, read into dataclasses and checked key by key."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from cprec_hf.errors import InputError

T = TypeVar("T")


def shipped(folder: str) -> Path:
    """The folder of that name (`recipes`, `dataset_cards`, `model_cards`): inside the wheel, or beside the package."""
    inside = Path(__file__).parent / "_shipped" / folder
    return inside if inside.is_dir() else Path(__file__).parent.parent / folder


def find_recipe(name: str) -> Path:
    """A recipe by path (`my/corpus.yaml`), or by name among the shipped ones (`tiny/corpus.yaml`, `recipes/tiny`).

    Raises:
        InputError: neither exists; the message names the shipped recipes most like it, or their folders.
    """
    path = Path(name)
    if path.exists():
        return path
    inside = shipped("recipes") / (Path(*path.parts[1:]) if path.parts[:1] == ("recipes",) else path)
    if inside.exists():
        return inside
    known = sorted(p.relative_to(shipped("recipes")).as_posix() for p in shipped("recipes").rglob("*.yaml"))
    near = difflib.get_close_matches("/".join(path.parts[-2:]).removeprefix("recipes/"), known, n=3, cutoff=0.75)
    folders = sorted({recipe.partition("/")[0] for recipe in known})
    hint = f"did you mean {' or '.join(near)}?" if near else f"in recipes/ there are {', '.join(folders)}"
    raise InputError(f"no recipe {name}: no such file here, and none shipped; {hint}")


def expand_environment(path: str, where: str) -> str:
    """A path with each `${NAME}` replaced by that environment variable; raises `InputError` if it is not set."""
    for name in re.findall(r"\$\{(\w+)\}", path):
        if name not in os.environ:
            raise InputError(f"{where}: the environment variable {name} in {path} is not set; set it to what it names")
    return re.sub(r"\$\{(\w+)\}", lambda match: os.environ[match[1]], path)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping, as a dict. Raises `InputError` naming the file and the line."""
    path = Path(path)
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        known = ", ".join(sorted(found.name for found in path.glob("*.yaml")))
        raise InputError(f"{path} is a folder; give one of its files{': ' + known if known else ''}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: expected `key: value` lines at the top level, found {type(loaded).__name__}")
    return loaded


def check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise `InputError` for the first key of `given` not in `known`, naming the nearest valid one."""
    known = sorted(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"valid keys: {', '.join(known)}"
            raise InputError(f"{where}: unknown key `{key}`; {hint}")


def read_recipe(path: str | Path, cls: type[T], overrides: Mapping[str, Any] | None = None) -> T:
    """Read a YAML recipe into the dataclass `cls`, nested dataclasses included.

    Args:
        path: a recipe file (see `find_recipe`).
        cls: the dataclass whose fields are the valid keys.
        overrides: top-level values that take the place of the file's, from flags.

    Raises:
        InputError: unknown key (with the nearest valid one), missing key, or a value of the wrong type.
    """
    file = find_recipe(str(path))
    return from_mapping({**read_yaml(file), **(overrides or {})}, cls, str(file))


def from_mapping(values: Mapping[str, Any], cls: type[T], where: str) -> T:
    """Build the dataclass `cls` from a mapping; `where` names the file in error messages (see `read_recipe`)."""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    check_keys(values, fields, where)
    hints = typing.get_type_hints(cls)
    kwargs = {key: _convert(value, hints[key], f"{where}: `{key}`") for key, value in values.items()}
    required = [
        n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in kwargs]
    if missing:
        raise InputError(f"{where}: missing key `{missing[0]}`")
    try:
        return cls(**kwargs)
    except InputError as error:
        raise InputError(str(error) if where in str(error) else f"{where}: {error}") from None


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in args if option is not type(None)]
        if value is None and len(options) < len(args):
            return None
        for option in options:
            try:
                return _convert(value, option, where)
            except InputError:
                # A mapping can only have been meant for the dataclass, any value for an only option: keep that message
                if len(options) == 1 or (dataclasses.is_dataclass(option) and isinstance(value, Mapping)):
                    raise
        return _wrong(value, hint, where)
    if hint is Any:
        return value
    if hint is type(None):
        if value is None:
            return None
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            return from_mapping(value, hint, where)
    elif origin is typing.Literal:
        if value in args:
            return value
        raise InputError(f"{where} is {value!r}; choose one of {', '.join(map(str, args))}")
    elif origin in (list, tuple):
        if isinstance(value, (list, tuple)):
            return origin(_convert(item, args[0], f"{where}[{i}]") for i, item in enumerate(value))
    elif origin is dict:
        if isinstance(value, Mapping):
            return {str(k): _convert(v, args[1], f"{where}.{k}") for k, v in value.items()}
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        try:  # YAML reads 1e-3 as a string
            return float(value) if isinstance(value, str) else _wrong(value, hint, where)
        except ValueError:
            _wrong(value, hint, where)
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif isinstance(hint, type) and isinstance(value, hint):
        return value
    return _wrong(value, hint, where)


def _wrong(value: Any, hint: Any, where: str) -> Any:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    names = ["null" if option is type(None) else getattr(option, "__name__", str(option)) for option in options]
    raise InputError(f"{where} is {value!r}, of type {type(value).__name__}; expected {' or '.join(names)}")
