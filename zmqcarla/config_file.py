"""A TOML file that fills frozen dataclasses: one table each, its keys the fields, its comments the fields' docstrings.

So the dataclass is the one place where a setting, its type, its default and its meaning stand.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import inspect
import json
import sys
import textwrap
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin

from zmqcarla.broker.errors import ConfigError

# By name, for type checkers look at this as Python 3.10 does and need not have its tomli.
_TOML: Final = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
_WIDTH: Final = 110


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """One table of a file.

    Attributes:
        name: of the table.
        kind: the dataclass that it fills.
        without: fields that a file does not set.
    """

    name: str
    kind: type[Any]
    without: frozenset[str] = frozenset()

    def fields(self) -> dict[str, dataclasses.Field[Any]]:
        """The fields that the file may set."""
        return {field.name: field for field in dataclasses.fields(self.kind) if field.name not in self.without}


def read_config(path: Path, sections: Collection[Section]) -> dict[str, dict[str, Any]]:
    """What a file sets: keyword arguments by name of the section.

    Raises:
        ConfigError: no such file, not TOML, an unknown table or key, or a value of another type.
    """
    try:
        tables = _TOML.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ConfigError(f"{path}: expected a TOML file, see `zmqcarla config init`; found: {error}") from None
    known = {section.name: section for section in sections}
    for name, table in tables.items():
        if name not in known or not isinstance(table, dict):
            raise ConfigError(f"{path}: expected the tables {_listed(known)}, found {name!r}{_nearest(name, known)}")
    return {name: _filled(path, section, tables.get(name, {})) for name, section in known.items()}


def _filled(path: Path, section: Section, table: Mapping[str, Any]) -> dict[str, Any]:
    fields = section.fields()
    hints = typing.get_type_hints(section.kind)
    found: dict[str, Any] = {}
    for key, value in table.items():
        where = f"{path}: {section.name}.{key}"
        if key not in fields:
            raise ConfigError(
                f"{where}: expected one of {_listed(fields)}; found an unknown key{_nearest(key, fields)}"
            )
        found[key] = _checked(value, hints[key], where)
    return found


def _checked(value: Any, hint: Any, where: str) -> Any:
    """The value in the form of its annotation."""
    if get_origin(hint) in (types.UnionType, Union):  # with None, which a file says by leaving the key out
        (hint,) = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) is Literal and value in get_args(hint):
        return value
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple([_checked(item, get_args(hint)[0], where) for item in value])
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is hint:
        return value
    raise ConfigError(f"{where}: expected {_words(hint)}, found {json.dumps(value, default=str)}")


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {_listed(get_args(hint))}"
    if get_origin(hint) is tuple:
        return f"a list, of each {_words(get_args(hint)[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text in quotes"}[hint]


def template(sections: Collection[Section], head: str) -> str:
    """A file with every setting, commented out, at its default."""
    parts = [_commented(head)]
    for section in sections:
        comments = _docstrings(section.kind)
        parts.append(f"[{section.name}]")
        for name, field in section.fields().items():
            default = "..." if field.default is dataclasses.MISSING or field.default is None else _toml(field.default)
            parts.append(f"{_commented(comments[name])}\n#{name} = {default}")
    return "\n\n".join(parts) + "\n"


def as_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """The settings of a file, without comments."""
    blocks = [
        "\n".join([f"[{name}]", *[f"{key} = {_toml(value)}" for key, value in table.items() if value is not None]])
        for name, table in tables.items()
    ]
    return "\n\n".join(blocks)


def _toml(value: Any) -> str:
    """Numbers, booleans, texts and lists of these are written in TOML as in JSON."""
    return json.dumps(value, ensure_ascii=False)


def _commented(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _docstrings(kind: type[Any]) -> dict[str, str]:
    """The string below each field of a dataclass."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = text
            case _:
                pass
    return found


def _listed(names: Collection[str]) -> str:
    return ", ".join(names)


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""
