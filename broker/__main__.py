"""`python -m zmqcarla.broker`: the broker as a process of a supervised pool."""

from __future__ import annotations

import argparse
import sys

from zmqcarla.broker.errors import ZmqCarlaError
from zmqcarla.broker.logs import log_to_stderr
from zmqcarla.broker.router import serve


def main() -> int:
    """Serve until told to stop; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m zmqcarla.broker")
    parser.add_argument("--address", required=True)
    parser.add_argument("--lifeline-fd", type=int)
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    options = parser.parse_args()
    log_to_stderr(options.log_format)
    try:
        serve(options.address, options.lifeline_fd)
    except ZmqCarlaError as error:
        print(f"zmqcarla broker: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
