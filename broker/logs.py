"""How the long-lived processes of a pool write their logs: lines for people, or JSON objects for programs.

Fields beside the message are given as `extra={"cause": ...}`; `cause` is the id of the message or event because of
which something was done, so that all that followed from it can be found.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any, Final

_TEXT: Final = "%(asctime)s %(name)s %(levelname)s %(message)s"
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, pid, message, the extra fields, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        fields: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        fields.update({name: value for name, value in vars(record).items() if name not in _STANDARD})
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def log_to_stderr(log_format: str = "text") -> None:
    """Write this process's log to standard error, as "text" or "json"."""
    written = logging.StreamHandler(sys.stderr)
    written.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[written])
