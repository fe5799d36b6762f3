"""An agent of the Leaderboard drives an env: its own code, inside the env process, called as their evaluator calls it.

The order of the calls is theirs: the object is made, told the plan, set up and asked for its sensors, which are
checked; its sensors are started by their wrapper, which ticks; then it is asked for one control a tick; in the end the
wrapper stops the sensors and the agent is destroyed. What it raises is kept as a failure in their words.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from zmqcarla.broker.errors import SimulatorTimeoutError
from zmqcarla.workers.leaderboard.checkout import CheckoutError
from zmqcarla.workers.leaderboard.time_limit import time_limit
from zmqcarla.workers.session import Session

AGENT: Final = "ZMQCARLA_AGENT"
AGENT_CONFIG: Final = "ZMQCARLA_AGENT_CONFIG"
_PACKAGE: Final = "leaderboard.autoagents"


@dataclass(frozen=True, slots=True)
class AgentCode:
    """Which agent drives.

    Attributes:
        path: a Python file with `get_entry_point`.
        config: what its `setup` gets; "" for nothing.
        timeout_s: longest time for its set-up, and for one call.
    """

    path: Path
    config: str
    timeout_s: float = 300.0

    @classmethod
    def find(
        cls, agent_file: str | None = None, agent_config: str | None = None, timeout_s: float = 300.0
    ) -> AgentCode:
        """Take the arguments, else the variables ZMQCARLA_AGENT and ZMQCARLA_AGENT_CONFIG.

        Raises:
            CheckoutError: no file is named, or it is not there.
        """
        named = agent_file or os.environ.get(AGENT)
        how = f"agent_file or the variable {AGENT}, which a worker inherits"
        if not named:
            raise CheckoutError(
                f'expected an agent of the Leaderboard for driver="agent", found none named: pass {how}'
            )
        path = Path(named).expanduser().resolve()
        if path.suffix != ".py" or not path.is_file():
            raise CheckoutError(f"expected the Python file of an agent, found {named!r}: correct {how}")
        return cls(path, os.environ.get(AGENT_CONFIG, "") if agent_config is None else agent_config, timeout_s)


class HostedAgent:
    """One agent on one route.

    Args:
        code: which.
        session: the server, of which the agent is told host and port.
        scenario: a RouteScenario of theirs.
        save_name: of the route, which Bench2Drive's agents find behind the "+" in their configuration; None to leave
            that out.

    Attributes:
        failure: the Leaderboard's words for why the agent drives no more, "" while it does.
        error: the traceback of that.

    Raises:
        CheckoutError: the agent's file, or what their wrapper needs, cannot be imported.
    """

    def __init__(self, code: AgentCode, session: Session, scenario: Any, save_name: str | None) -> None:
        self.failure = ""
        self.error = ""
        self._session = session
        self._agent: Any = None
        self._wrapper: Any = None
        self._wrappers: Any = _import(f"{_PACKAGE}.agent_wrapper")
        self._interface: Any = _import("leaderboard.envs.sensor_interface")
        self._words = _import("leaderboard.utils.statistics_manager").FAILURE_MESSAGES
        self._timeout_s = code.timeout_s
        module = _import_file(code.path)
        what = "the set-up of the agent"
        with self._failing("Agent_init", what), time_limit(code.timeout_s, what):
            self._set_up(module, code, scenario, save_name)

    def start_sensors(self, vehicle: Any) -> bool:
        """Start the agent's sensors; true when that ticked the world as often as the Leaderboard does before the start.

        Raises:
            SimulatorTimeoutError: the server does not answer.
        """
        if self.failure:
            return False
        self._wrapper = self._wrappers.AgentWrapperFactory.get_wrapper(self._agent)
        self._wrapper._sensors_list = []  # theirs is one list for all agents of the process, with what they left in it
        with self._failing("Simulation", "the start of the agent's sensors"):
            self._wrapper.setup_sensors(vehicle)
        return True

    def control(self) -> Any:
        """Ask for the control of this tick, a `carla.VehicleControl`; None from the moment on at which it failed.

        Raises:
            SimulatorTimeoutError: a sensor sent nothing, or the server does not answer.
        """
        if self.failure:
            return None
        what = "a call of the agent"
        with self._failing("Agent_runtime", what), time_limit(self._timeout_s, what):
            try:
                return self._wrapper()
            except self._interface.SensorReceivedNoData as error:
                waited_s = float(self._agent.sensor_interface._queue_timeout)
                raise SimulatorTimeoutError(
                    f"expected a measurement of every sensor of the agent within {waited_s:g} s, found {error}",
                    waited_s,
                ) from error
        return None

    def stop_sensors(self) -> None:
        """Stop the agent's sensors, as the first thing after the last tick; a second call does nothing."""
        wrapper, self._wrapper = self._wrapper, None
        if wrapper is not None and not self._session.lost:
            with contextlib.suppress(SimulatorTimeoutError), self._session.answers("the end of the agent's sensors"):
                wrapper.cleanup()

    def destroy(self) -> None:
        """Let the agent clean up; what it raises is only printed, as theirs does."""
        agent, self._agent = self._agent, None
        if agent is not None:
            try:
                agent.destroy()
            except Exception:
                traceback.print_exc()

    def _set_up(self, module: Any, code: AgentCode, scenario: Any, save_name: str | None) -> None:
        made = getattr(module, module.get_entry_point())
        if made.get_ros_version() == 1:
            raise CheckoutError(f"expected an agent without ROS 1, found {code.path}: its bridge is not started here")
        self._agent = agent = made(*self._session.address, False)
        agent.set_global_plan(scenario.gps_route, scenario.route)
        agent.setup(code.config if save_name is None else f"{code.config}+{save_name}")
        sensors = agent.sensors()
        try:
            self._wrappers.validate_sensor_configuration(sensors, agent.track, agent.track.value)
        except self._interface.SensorConfigurationInvalid:
            self._fail("Sensors")

    @contextlib.contextmanager
    def _failing(self, kind: str, what: str) -> Generator[None]:
        """Keep what is raised inside as a failure, but for what is the server's or the checkout's."""
        try:
            with self._session.answers(what):
                yield
        except (SimulatorTimeoutError, CheckoutError):
            raise
        except Exception:
            self._fail(kind)

    def _fail(self, kind: str) -> None:
        _, self.failure = self._words[kind]
        self.error = traceback.format_exc()


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CheckoutError(
            f"expected what {name} imports, found {error}: pip install 'zmqcarla[leaderboard]'"
        ) from error


def _import_file(path: Path) -> Any:
    """Import an agent's file as their evaluator does: by its name, from its folder, which stays on the path."""
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        module = importlib.import_module(path.name.split(".")[0])
    except Exception as error:
        raise CheckoutError(f"expected an agent in {path} that can be imported, found {error!r}") from error
    if Path(str(module.__file__)).resolve() != path:
        raise CheckoutError(f"expected {path}, found another module of this name, {module.__file__}: rename the file")
    return module
