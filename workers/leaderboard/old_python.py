"""What newer Pythons took away and the checkouts still call, given at start-up; no file of theirs is changed.

The checkouts were written for Python 3.7. All that they miss in Python 3.10 to 3.12 is here, and is only put in where
it is missing. `prepare` does so in this process. Their own programs are started with it as

    python old_python.py leaderboard_evaluator.py ARGUMENTS...

which needs nothing but the standard library, so that it works with any Python that has what *they* need.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import runpy
import sys
from functools import total_ordering
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree


def prepare() -> None:
    """Give this process what is missing; a second call does nothing."""
    if not hasattr(ElementTree.Element, "getchildren"):
        _give_getchildren()
    if _lacks("distutils"):
        _offer(
            "distutils",
            version=_offer("distutils.version", LooseVersion=LooseVersion),
            util=_offer("distutils.util", strtobool=strtobool),
        )
    if _lacks("pkg_resources"):
        _offer("pkg_resources", get_distribution=importlib.metadata.distribution)


def main(arguments: list[str]) -> None:
    """Run a program of theirs in this process: its path and its arguments.

    Raises:
        SystemExit: no program is named, or it ends so.
    """
    if not arguments:
        raise SystemExit("expected the path of a Python program and its arguments, found nothing")
    prepare()
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).resolve().parent)  # as `python PROGRAM` has it
    runpy.run_path(arguments[0], run_name="__main__")


# --- xml.etree, Python 3.9 ---


class _Element(ElementTree.Element):
    """An element with the method that their reader of route files calls."""

    def getchildren(self) -> list[ElementTree.Element]:
        """The elements directly inside."""
        return list(self)


def _give_getchildren() -> None:
    plain = ElementTree.XMLParser
    if getattr(plain, "gives_getchildren", False):
        return

    def parser(*, target: Any = None, encoding: str | None = None) -> ElementTree.XMLParser:
        builder = ElementTree.TreeBuilder(element_factory=_Element) if target is None else target
        return plain(target=builder, encoding=encoding)

    parser.gives_getchildren = True  # type: ignore[attr-defined]
    ElementTree.XMLParser = parser  # type: ignore[misc, assignment]


# --- distutils, Python 3.12 without setuptools; pkg_resources, setuptools 82 ---


@total_ordering
class LooseVersion:
    """A version that compares by its numbers and words in order; a word comes before a number.

    Args:
        text: the version.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        parts = re.findall(r"\d+|[a-z]+", text.lower())
        self._key = [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return self._key == _loose(other)._key

    def __lt__(self, other: object) -> bool:
        return self._key < _loose(other)._key

    __hash__ = None  # type: ignore[assignment]


def _loose(version: object) -> LooseVersion:
    return version if isinstance(version, LooseVersion) else LooseVersion(str(version))


def strtobool(text: str) -> int:
    """1 for yes and 0 for no, in the words that distutils knew.

    Raises:
        ValueError: it is neither.
    """
    word = text.lower()
    if word in ("y", "yes", "t", "true", "on", "1"):
        return 1
    if word in ("n", "no", "f", "false", "off", "0"):
        return 0
    raise ValueError(f"expected a word for yes or no, found {text!r}")


def _lacks(name: str) -> bool:
    return name not in sys.modules and importlib.util.find_spec(name) is None


def _offer(name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name, "A part of what was removed, from zmqcarla.")
    vars(module).update(contents)
    sys.modules[name] = module
    return module


if __name__ == "__main__":
    main(sys.argv[1:])
