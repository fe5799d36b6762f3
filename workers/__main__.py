"""`python -m zmqcarla.workers '<json>'`: one supervisor; the JSON is that of a SupervisorConfig."""

from __future__ import annotations

import sys

from zmqcarla.broker.protocol import log_to_stderr
from zmqcarla.workers.supervisor import run
from zmqcarla.workers.worker_config import SupervisorConfig


def main(arguments: list[str]) -> int:
    """Supervise until told to stop; 0 after an orderly end, 2 for a wrong command line."""
    try:
        if len(arguments) != 1:
            raise ValueError(f"expected one argument, the JSON of a SupervisorConfig, found {len(arguments)}")
        config = SupervisorConfig.from_json(arguments[0])
    except ValueError as error:
        print(f"zmqcarla workers: {error}", file=sys.stderr)
        return 2
    log_to_stderr(config.log_format)
    return run(config)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
