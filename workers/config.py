"""What a user may choose about one CARLA environment: the keywords of `gymnasium.make("zmqcarla/Carla-v0", ...)`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zmqcarla.workers.actions import ACTION_TYPES, ActionType, checked_table
from zmqcarla.workers.bev_config import BevConfig
from zmqcarla.workers.presets import OBSERVATION_NAMES, VECTORS, ObservationName, preset
from zmqcarla.workers.sensor_specs import IMAGE_LAYOUTS, ImageLayout, SensorSpec, parse_sensors
from zmqcarla.workers.servers import QUALITY_LEVELS, QualityLevel, SimulatorName

RenderMode = Literal["rgb_array"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CarlaEnvConfig:
    """Settings of one `CarlaEnv`; checked on construction."""

    connect: str | None = None
    """HOST:PORT of a server that already runs; None lets the env start its own."""

    simulator: SimulatorName | None = None
    """"embedded" or "carla"; None means real CARLA when an address or a root is given, else the embedded simulator."""

    carla_root: str | None = None
    """Folder of a CARLA release; None reads the variable CARLA_ROOT."""

    map: str | None = None
    """Path of an OpenDRIVE file (.xodr) or a town's name; None takes what the server has."""

    timeout: float = 20.0
    """Seconds to wait for one answer of the server, or for one camera frame."""

    max_steps: int = 2000
    """Steps after which an episode is truncated."""

    frame_skip: int = 1
    """Simulator ticks per step."""

    delta_s: float = 0.05
    """Simulated seconds per tick."""

    action_type: ActionType = "control"
    """"control", "acceleration" or "discrete"; see `zmqcarla.workers.actions`."""

    action_table: Sequence[Sequence[float]] | None = None
    """Rows of [steer, throttle, brake] for "discrete"; None for the default table."""

    reward_type: str = "dense"
    """"dense", "sparse", "roach", "carl", or a function "module:name"; see `zmqcarla.workers.reward`."""

    reward_weights: Mapping[str, float] | None = None
    """Weights that differ from the preset's; see `zmqcarla.workers.reward`."""

    render_mode: RenderMode | None = None
    """"rgb_array" adds a camera behind the vehicle for `render()`; it costs a second picture a step."""

    image_size: tuple[int, int] = (400, 224)
    """Width and height in pixels of the picture of "standard" and of `render()`."""

    observation: ObservationName = "standard"
    """What is observed: "standard", "state", "roach" or "leaderboard"; see `zmqcarla.workers.presets`."""

    sensors: Sequence[Mapping[str, Any]] | None = None
    """Leaderboard-style sensor dicts in place of the preset's; see `zmqcarla.workers.sensor_specs`."""

    vectors: Sequence[str] | None = None
    """Which of "vehicle_state", "navigation" and "measurements" are observed; None for all."""

    bev: Mapping[str, Any] | None = None
    """Settings of a bird's-eye view "bev", {} for the default ones; see `zmqcarla.workers.bev_config`."""

    image_layout: ImageLayout = "CHW"
    """Order of the axes of RGB pictures: "CHW" or "HWC"; "BGRA" gives CARLA's own bytes, which costs least."""

    route_length_m: float = 300.0
    """Least length of a random route."""

    off_route_m: float = 30.0
    """Distance from the route at which the episode ends."""

    blocked_s: float = 60.0
    """Simulated time below 0.1 m/s after which the episode ends."""

    terminate_on_collision: bool = True
    """Whether a collision ends the episode."""

    routes: str | None = None
    """Path of a Leaderboard route file; each episode then drives one of its routes. None draws random routes."""

    traffic_vehicles: int = 0
    """Other vehicles, driven by the Traffic Manager; fewer where there is no room."""

    traffic_walkers: int = 0
    """Pedestrians that walk to random places."""

    parked_vehicles: int = 0
    """Vehicles that stand beside the road; none on a map without parking lanes and wide shoulders."""

    difficulty: float = 1.0
    """Share of the traffic above that an episode gets, 0 to 1; `set_attr("difficulty", ...)` changes it."""

    traffic_speed_percent: float = 100.0
    """Speed of the other vehicles in percent of the speed limit."""

    traffic_gap_m: float = 2.5
    """Distance that the other vehicles keep from the one ahead."""

    traffic_ignores_lights_percent: float = 0.0
    """Share of the other vehicles' red lights that they do not stop at."""

    traffic_manager_port: int | None = None
    """Port of the Traffic Manager, which lives in this process; None takes the server's port + 3."""

    snapshot_memory_mb: float = 256.0
    """Megabytes of memory for snapshots; when they are full, those used longest ago make room."""

    snapshot_folder: str | None = None
    """Folder in which snapshots are written as well; it belongs to one env. "{port}" becomes the server's port."""

    rendering: bool = True
    """Whether the server can draw; False makes a camera an error. A CarlaUE4 that the env starts itself is started
    without rendering (-nullrhi) whenever no camera is asked for."""

    gpu: int = 0
    """Graphics adapter for a CARLA that the env starts itself, as Vulkan counts (`zmqcarla doctor` shows it)."""

    quality: QualityLevel = "Low"
    """How a CARLA that the env starts itself draws: "Low" or "Epic"."""

    start_timeout_s: float = 120.0
    """Seconds that a server which the env starts itself may take until it listens."""

    start_attempts: int = 3
    """How often the env tries to start a server, each time on another block of ports, before reset raises."""

    recycle_episodes: int | None = None
    """Episodes after which a server that the env started itself is replaced, at the next reset; 0 for never, None for
    500 with CarlaUE4 and never with the embedded simulator."""

    recycle_rss_growth_mib: int = 4096
    """Growth of its main memory, in MiB since its third episode, at which it is replaced likewise; 0 for never."""

    recycle_vram_growth_mib: int = 2048
    """The same of its GPU memory, where the driver tells it a process."""

    def __post_init__(self) -> None:
        _choose("simulator", self.simulator, (None, "embedded", "carla"))
        _choose("action_type", self.action_type, ACTION_TYPES)
        discrete = self.action_type == "discrete"
        _expect("action_table", self.action_table, discrete or self.action_table is None, 'it with "discrete" only')
        checked_table(self.action_table)
        _choose("render_mode", self.render_mode, (None, "rgb_array"))
        _choose("quality", self.quality, QUALITY_LEVELS)
        for name in ("recycle_episodes", "recycle_rss_growth_mib", "recycle_vram_growth_mib"):
            _expect(name, getattr(self, name), (getattr(self, name) or 0) >= 0, "a number of at least 0")
        for name in ("timeout", "delta_s", "route_length_m", "off_route_m", "blocked_s", "start_timeout_s"):
            _expect(name, getattr(self, name), getattr(self, name) > 0.0, "a number above 0")
        for name in ("max_steps", "frame_skip", "start_attempts"):
            _expect(name, getattr(self, name), getattr(self, name) >= 1, "a whole number of at least 1")
        for name in ("traffic_vehicles", "traffic_walkers", "parked_vehicles", "traffic_gap_m"):
            _expect(name, getattr(self, name), getattr(self, name) >= 0, "a number of at least 0")
        _expect("difficulty", self.difficulty, 0.0 <= self.difficulty <= 1.0, "a number between 0 and 1")
        _expect("snapshot_memory_mb", self.snapshot_memory_mb, self.snapshot_memory_mb > 0.0, "a number above 0")
        share = self.traffic_ignores_lights_percent
        _expect("traffic_ignores_lights_percent", share, 0.0 <= share <= 100.0, "a number between 0 and 100")
        speed = self.traffic_speed_percent
        _expect("traffic_speed_percent", speed, 0.0 < speed <= 200.0, "a number above 0 and up to 200")
        # CARLA's physics cannot substep further: ten substeps of 0.01 s.
        _expect("delta_s", self.delta_s, self.delta_s <= 0.1, "at most 0.1 s per tick")
        size = tuple(self.image_size)
        _expect("image_size", size, len(size) == 2 and min(size) >= 16, "(width, height) of at least 16 pixels")
        _choose("observation", self.observation, OBSERVATION_NAMES)
        _choose("image_layout", self.image_layout, IMAGE_LAYOUTS)
        for name in self.vector_names:
            _choose("vectors", name, VECTORS)
        _expect("vectors", self.vectors, len(set(self.vector_names)) == len(self.vector_names), "each name once")
        something = self.sensor_specs or self.vector_names or self.bev_config
        _expect(
            "sensors and vectors", (self.sensors, self.vectors), something, "at least one sensor, one vector or bev"
        )
        _expect(
            "rendering",
            self.rendering,
            self.rendering or not self.draws,
            "True for cameras and render_mode (start the worker with rendering), or neither of them",
        )
        if self.connect is not None:
            self.address()

    @property
    def snapshot_bytes(self) -> int:
        """`snapshot_memory_mb` in bytes."""
        return round(self.snapshot_memory_mb * 1e6)

    @property
    def draws(self) -> bool:
        """Whether a camera is asked for."""
        cameras = any(spec.type.startswith("sensor.camera.") for spec in self.sensor_specs)
        return cameras or self.render_mode is not None

    @property
    def sensor_specs(self) -> tuple[SensorSpec, ...]:
        """The sensors of the observation, checked."""
        wanted = preset(self.observation, self.image_size).sensors if self.sensors is None else self.sensors
        return parse_sensors(wanted, self.delta_s, (*VECTORS, "bev"))

    @property
    def bev_config(self) -> BevConfig | None:
        """The bird's-eye view of the observation, checked; None for none."""
        wanted = preset(self.observation, self.image_size).bev if self.bev is None else self.bev
        return None if wanted is None else BevConfig.parse(wanted)

    @property
    def vector_names(self) -> tuple[str, ...]:
        """The vectors of the observation."""
        return VECTORS if self.vectors is None else tuple(self.vectors)

    @property
    def simulator_name(self) -> SimulatorName:
        """Which simulator these settings mean."""
        if self.simulator is not None:
            return self.simulator
        return "carla" if self.connect is not None or self.root is not None else "embedded"

    @property
    def root(self) -> str | None:
        """The CARLA release to start, from `carla_root` or CARLA_ROOT."""
        return self.carla_root or os.environ.get("CARLA_ROOT") or None

    def address(self) -> tuple[str, int]:
        """Return host and port of `connect`.

        Raises:
            ValueError: `connect` is not HOST:PORT.
        """
        host, _, port = (self.connect or "").rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"connect: expected HOST:PORT such as '127.0.0.1:2000', found {self.connect!r}")
        return host, int(port)


def _choose(name: str, value: object, allowed: tuple[object, ...]) -> None:
    _expect(name, value, value in allowed, "one of " + ", ".join(map(repr, allowed)))


def _expect(name: str, value: object, good: object, expected: str) -> None:
    if not good:
        raise ValueError(f"{name}: expected {expected}, found {value!r}")
