"""The ego's sensors: measurements matched to their tick by frame number, and collisions.

The client calls sensor callbacks on its one I/O thread (the session asks for one). They only put what they got into a
queue; the env thread takes the entry of the frame it wants, drops older ones, and waits no longer than its deadline.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Sequence
from typing import Any, Final

import carla

from zmqcarla.broker.errors import SimulatorError, SimulatorTimeoutError
from zmqcarla.workers.criteria.base import Hit
from zmqcarla.workers.sensor_specs import SPEEDOMETER, SensorSpec

Readings = dict[str, tuple[Any, int]]
"""By sensor id: the measurement as the client gives it, and its age in ticks."""

# The cheapest thing that says: all of this frame was sent.
_FENCE: Final = SensorSpec("sensor.other.gnss", " fence", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (), (0, 0), 1, 0, 1)


class SensorStream:
    """One sensor that is fixed to a vehicle and measures every tick, or every few."""

    def __init__(self, world: carla.World, library: Any, vehicle: carla.Vehicle, spec: SensorSpec) -> None:
        """Attach and start the sensor; its first measurement is that of the next tick.

        Raises:
            ValueError: an attribute is none of this server's.
        """
        self._spec = spec
        x_m, y_m, z_m = spec.position_m
        roll_deg, pitch_deg, yaw_deg = spec.rotation_deg
        pose = carla.Transform(
            carla.Location(x_m, y_m, z_m), carla.Rotation(pitch=pitch_deg, yaw=yaw_deg, roll=roll_deg)
        )
        self._sensor: Any = world.spawn_actor(_blueprint(library, spec), pose, attach_to=vehicle)
        frames: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._frames = frames
        self._last: Any = None
        self._sensor.listen(frames.put)

    @property
    def actor_id(self) -> int:
        """The sensor's actor id."""
        return int(self._sensor.id)

    def reading(self, frame: int, timeout_s: float) -> Any:
        """Return the newest measurement that is due by a tick: of that very tick, unless the sensor is a slow one.

        Raises:
            SimulatorTimeoutError: it did not come within `timeout_s`.
            SimulatorError: the sensor sent a later frame without this one.
        """
        if self._last is not None:
            since = int(self._last.frame)
            frame = since + (frame - since) // self._spec.ticks * self._spec.ticks
            if frame == since:
                return self._last
        deadline = time.monotonic() + timeout_s
        newest: int | None = None
        while newest is None or newest < frame:
            try:
                measured = self._frames.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise SimulatorTimeoutError(
                    f"expected {self._name} of frame {frame} within {timeout_s:g} s, found "
                    f"{'none at all' if newest is None else f'frame {newest} as the newest'}; "
                    "the server renders too slowly or is stuck: raise `timeout` or restart it",
                    timeout_s,
                ) from None
            newest = int(measured.frame)
            if self._last is None and self._spec.ticks > 1:
                # Counted from its first measurement on.
                frame = newest + max(0, frame - newest) // self._spec.ticks * self._spec.ticks
            if newest <= frame:
                self._last = measured
        if newest == frame:
            return self._last
        raise SimulatorError(
            f"expected {self._name} of frame {frame}, found frame {newest} after it; "
            "another client may be ticking this server: only one may"
        )

    def stop(self) -> None:
        """Stop the stream; must come before the actor is destroyed."""
        self._sensor.stop()

    @property
    def _name(self) -> str:
        return f"the measurement of {self._spec.type} {self._spec.id!r}"


class CollisionLog:
    """Remembers whether a vehicle hit something."""

    def __init__(self, world: carla.World, library: Any, vehicle: carla.Vehicle) -> None:
        blueprint = library.find("sensor.other.collision")
        self._sensor: Any = world.spawn_actor(blueprint, carla.Transform(), attach_to=vehicle)
        hits: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._hits = hits
        self._sensor.listen(hits.put)

    @property
    def actor_id(self) -> int:
        """The sensor's actor id."""
        return int(self._sensor.id)

    def take(self) -> list[Hit]:
        """Return what was hit since the last call.

        A collision has no message when it does not happen, so nothing can be waited for. The simulator sends it
        before the other measurements of the same tick, and the client's one I/O thread keeps that order: call this
        after `SensorStream.reading` of a sensor that was started after this log.
        """
        hits: list[Hit] = []
        while True:
            try:
                event = self._hits.get_nowait()
            except queue.Empty:
                return hits
            other = event.other_actor
            actor_id, actor_type = (0, "unknown") if other is None else (int(other.id), str(other.type_id))
            hits.append(Hit(int(event.frame), actor_id, actor_type))

    def stop(self) -> None:
        """Stop the stream; must come before the actor is destroyed."""
        self._sensor.stop()


class SensorRig:
    """All sensors of one ego.

    Where the caller wants no sensor of every tick, one that costs next to nothing is there all the same, so that there
    is something to wait for before the collisions are counted.
    """

    def __init__(self, world: carla.World, library: Any, vehicle: carla.Vehicle, specs: Sequence[SensorSpec]) -> None:
        """Spawn and start them; those that were spawned are destroyed again when one cannot be.

        Args:
            world: the vehicle's.
            library: the server's `carla.BlueprintLibrary`.
            vehicle: what they are fixed to.
            specs: what is wanted.

        Raises:
            ValueError: an attribute is none of this server's.
        """
        self._world: Any = world
        self._library = library
        self._vehicle = vehicle
        self._started: list[SensorStream | CollisionLog] = []
        self._streams: list[tuple[SensorSpec, SensorStream]] = []
        self._collisions = CollisionLog(world, library, vehicle)
        self._started.append(self._collisions)
        real = [spec for spec in specs if spec.type != SPEEDOMETER]
        if all(spec.ticks > 1 for spec in real):
            real.append(_FENCE)
        try:
            for spec in real:
                stream = SensorStream(world, library, vehicle, spec)
                self._started.append(stream)
                self._streams.append((spec, stream))
        except BaseException:
            self.stop()
            for started in self._started:
                world.get_actor(started.actor_id).destroy()
            raise

    @property
    def actor_ids(self) -> list[int]:
        """Of all sensors."""
        return [started.actor_id for started in self._started]

    def read(self, frame: int, timeout_s: float) -> tuple[Readings, list[Hit]]:
        """Return all measurements of a tick, and what was hit since the last call.

        Raises:
            SimulatorTimeoutError: one did not come within `timeout_s`.
            SimulatorError: a sensor sent a later frame without this one.
        """
        readings: Readings = {}
        for spec, stream in self._streams:
            measured = stream.reading(frame, timeout_s)
            readings[spec.id] = (measured, frame - int(measured.frame))
        return readings, self._collisions.take()

    def resume(self) -> None:
        """Forget what was felt and measured, because the world was put into another state.

        A sensor that goes on from its last measurement (`has_memory`) is replaced by a new one, whose first measurement
        is that of the next tick: what comes after a state then depends on the state alone.
        """
        self._collisions.take()
        for index, (spec, stream) in enumerate(self._streams):
            if not has_memory(spec):
                continue
            stream.stop()
            self._world.get_actor(stream.actor_id).destroy()
            fresh = SensorStream(self._world, self._library, self._vehicle, spec)
            self._streams[index] = spec, fresh
            self._started[self._started.index(stream)] = fresh

    def stop(self) -> None:
        """Stop all streams; must come before the actors are destroyed."""
        for started in self._started:
            started.stop()


def has_memory(spec: SensorSpec) -> bool:
    """Whether a measurement depends on those before: a phase, a turning head, or numbers drawn one after the other."""
    noisy = any(name.startswith("noise_") and not _is_zero(value) for name, value in spec.attributes)
    return spec.ticks > 1 or noisy or spec.type in ("sensor.lidar.ray_cast", "sensor.other.radar")


def _is_zero(text: str) -> bool:
    try:
        return float(text) == 0.0
    except ValueError:
        return False


def _blueprint(library: Any, spec: SensorSpec) -> Any:
    blueprint = library.find(spec.type)
    for name, value in spec.attributes:
        if not blueprint.has_attribute(name):
            known = ", ".join(sorted(attribute.id for attribute in blueprint))
            raise ValueError(
                f"sensors: {spec.id}: expected an attribute of {spec.type} ({known}), found {name!r}; correct it or "
                "leave it out"
            )
        if not _fits(blueprint.get_attribute(name).type, value):
            raise ValueError(
                f"sensors: {spec.id}: expected a value that {spec.type} takes as {name!r}, such as "
                f"{blueprint.get_attribute(name).recommended_values[0]}, found {value!r}; correct it"
            )
        blueprint.set_attribute(name, value)
    return blueprint


def _fits(kind: carla.ActorAttributeType, value: str) -> bool:
    """Whether an attribute takes a text as its value: the client takes any, and the server guesses."""
    if kind == carla.ActorAttributeType.Bool:
        return value in ("true", "false")
    if kind in (carla.ActorAttributeType.Int, carla.ActorAttributeType.Float):
        try:
            number = float(value)
        except ValueError:
            return False
        return math.isfinite(number) and (kind == carla.ActorAttributeType.Float or number == int(number))
    return True
