"""The CARLA server that an env without a pool starts for itself: tried several times, replaced when it is worn.

In a pool the supervisor does the same for the env process (`children`, `lifecycle`).
"""

from __future__ import annotations

import logging
from pathlib import Path

from zmqcarla.broker.errors import PortInUseError, SimulatorError, SimulatorStartError
from zmqcarla.broker.protocol import runtime_directory
from zmqcarla.workers import ports
from zmqcarla.workers.config import CarlaEnvConfig
from zmqcarla.workers.recycling import RecycleLimits, ServerWear
from zmqcarla.workers.servers import Server, ServerSpec, launch
from zmqcarla.workers.session import is_opendrive_path, read_opendrive
from zmqcarla.workers.vitals import tree_pids, tree_rss_bytes
from zmqcarla.workers.vram import VramGauge

_LOG = logging.getLogger(__name__)


class OwnServer:
    """At most one server, under a guard, on a block of ports that is claimed for it.

    Args:
        config: of the env.
        draws: whether the server is to draw, also when the observation has no camera.

    Attributes:
        server: that runs, None before `start` and after `close`.
        recycled: how many servers were replaced because they were worn.
    """

    def __init__(self, config: CarlaEnvConfig, draws: bool = False) -> None:
        self._draws = draws or config.draws
        self.server: Server | None = None
        self.recycled = 0
        self._config = config
        self._claim: ports.PortClaim | None = None
        self._limits = RecycleLimits.of(config, config.simulator_name)
        self._wear, self._vram = ServerWear(self._limits), VramGauge()
        self._episodes = 0

    def start(self) -> int:
        """Start the server and return its RPC port; after a failed attempt, try another block of ports.

        Raises:
            SimulatorStartError: none of `start_attempts` attempts came up, or this machine or user cannot run it.
            PortInUseError: the last attempt found a stranger on its port.
        """
        config = self._config
        town_file = config.map if config.map is not None and is_opendrive_path(config.map) else None
        if town_file is not None:
            read_opendrive(town_file)
        failed: list[int] = []
        while True:
            self._claim = ports.claim_free(avoid=failed)
            port = self._claim.block.rpc
            spec = ServerSpec(
                *(config.simulator_name, port, config.gpu, town_file, config.root, config.quality, self._draws)
            )
            try:
                spec.command()
                self.server = launch(spec, _fresh_log(port))
                self.server.wait_ready(config.start_timeout_s)
            except (SimulatorStartError, PortInUseError) as error:
                failed.append(port)
                hopeless = self.server is None
                self.close(keep_log=True)
                if hopeless or len(failed) >= config.start_attempts:
                    raise _with_attempts(error, len(failed)) from error.__cause__
                _LOG.warning("attempt %d of %d: %s", len(failed), config.start_attempts, error)
            except BaseException:
                self.close()
                raise
            else:
                self._wear, self._vram, self._episodes = ServerWear(self._limits), VramGauge(), 0
                return port

    @property
    def runs(self) -> bool:
        """Whether there is a server and it has not ended by itself."""
        return self.server is not None and self.server.poll() is None

    def worn(self) -> bool:
        """Whether the server should be replaced before the episode that is about to begin; to be asked once for each.

        The caller closes it then, and starts the next one.
        """
        if self.server is None or not self.runs:
            return False
        pid = self.server.pid
        why = self._wear.look(self._episodes, tree_rss_bytes(pid), self._vram.read(tree_pids(pid)))
        if why:
            self.recycled += 1
            _LOG.info("the simulator on port %d is replaced: %s", self.server.spec.port, why)
        return bool(why)

    def count_episode(self) -> None:
        """An episode begins on the server."""
        self._episodes += 1

    def close(self, *, keep_log: bool = False) -> None:
        """End the server and give its ports back; the log of one that died by itself is kept in any case."""
        keep_log |= not self.runs
        server, self.server = self.server, None
        claim, self._claim = self._claim, None
        if server is not None:
            server.close()
            if not keep_log:
                server.log_path.unlink(missing_ok=True)
        if claim is not None:
            claim.release()


def _with_attempts(error: SimulatorError, attempts: int) -> SimulatorError:
    if attempts > 1 and type(error) is SimulatorStartError:
        return SimulatorStartError(f"expected a server within {attempts} attempts, found that {error}")
    return error


def _fresh_log(port: int) -> Path:
    """Return an empty file for the output of the server on a claimed port.

    It lies in `logs/env` of this user's runtime directory. There is at most one a port: the file of a server that died
    is kept until the next one takes that port.
    """
    folder = runtime_directory() / "logs" / "env"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"server-{port}.log"
    path.write_bytes(b"")
    return path
