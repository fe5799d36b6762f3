"""Log files do not grow for ever: one that is too large is put aside, and the oldest goes.

The processes write to the files by themselves (their standard output), and a supervisor cannot tell CarlaUE4 to open
another one. So the content is copied to FILE.1 and the file is emptied: all writers opened it for appending and go on
at its new end. What is written between the two (microseconds) is lost; nobody is ever held up by a log.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
from pathlib import Path
from typing import Final

_LOG = logging.getLogger(__name__)
INTERVAL_S: Final = 5.0


def cut_logs(directory: Path, max_bytes: int, kept: int) -> list[Path]:
    """Put aside each `*.log` in the directory that is larger; returns these.

    Args:
        directory: of the logs.
        max_bytes: of a file.
        kept: how many old ones of each file stay: FILE.1 is the latest.
    """
    cut: list[Path] = []
    for path in sorted(directory.glob("*.log")):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > max_bytes:
                try:
                    _cut(path, kept)
                    cut.append(path)
                except OSError as error:  # a full disk: the content goes, the worker stays
                    os.truncate(path, 0)
                    _LOG.warning("%s was emptied, for it could not be put aside: %s", path, error)
    return cut


def _cut(path: Path, kept: int) -> None:
    aside = [path.with_name(f"{path.name}.{number}") for number in range(1, kept + 1)]
    for newer, older in reversed(list(itertools.pairwise(aside))):
        if newer.exists():
            newer.replace(older)
    if aside:
        shutil.copyfile(path, aside[0])
        aside[0].chmod(0o600)
    os.truncate(path, 0)
