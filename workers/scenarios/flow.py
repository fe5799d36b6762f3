"""Cars that follow one another along a line, for as long as a scenario lasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import carla
import numpy as np
from numpy.typing import NDArray

from zmqcarla.workers.criteria.base import Tick
from zmqcarla.workers.scenarios.base import Scenario
from zmqcarla.workers.scenarios.motion import drive, halt, stands_in_the_way
from zmqcarla.workers.scenarios.stage import CannotTakePlaceError, attribute

_SINK_M: Final = 6.0
_FOLLOW_M: Final = 7.0
_LEAST_M: Final = 16.0
_MOST: Final = 8


class WithFlow(Scenario):
    """A scenario with a flow of cars.

    They come at the line's start at a distance that is drawn for each anew, brake for the ego and for each other, and
    are gone at its end.
    """

    own_state: ClassVar[tuple[str, ...]] = ("_made",)

    def plan_flow(
        self, rng: np.random.Generator, line: NDArray[np.float64], speed_mps: float, gaps_m: tuple[float, float]
    ) -> None:
        """Choose the flow.

        Args:
            rng: draws the seed of the gaps and cars.
            line: float64 (k, 2), metres, world frame.
            speed_mps: of every car.
            gaps_m: least and largest distance to the one before.

        Raises:
            CannotTakePlaceError: the line is too short.
        """
        length_m = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
        if length_m < _LEAST_M:
            raise CannotTakePlaceError(f"expected {_LEAST_M:g} m of lane for other cars, found {length_m:.0f} m")
        self._line, self._flow_mps, self._gaps_m = line, speed_mps, gaps_m
        self._flow_seed = int(rng.integers(2**31))
        self._models = [str(each.id) for each in self.stage.cars(_is_ordinary)]
        self._made = 0

    def flow(self, tick: Tick) -> None:
        """Drive the cars for a tick, let those at the end go, and bring the next one."""
        before: Any = None
        for part in [each for each in self.actors if each.startswith("flow ")]:
            car = self.actor(part)
            close = before is not None and car.get_location().distance(before.get_location()) < _FOLLOW_M
            if close or stands_in_the_way(car, tick, car.get_velocity().length()):
                halt(car)
            elif drive(car, self._line, self._flow_mps) < _SINK_M:
                self.stage.dismiss([self.actors.pop(part)])
                continue
            before = car
        self._bring(before)

    def _bring(self, last: Any) -> None:
        rng = np.random.default_rng((self._flow_seed, self._made))
        gap_m = float(rng.uniform(*self._gaps_m))
        (x, y), (x2, y2) = self._line[0], self._line[1]
        here = self.stage.map.get_waypoint(carla.Location(float(x), float(y), 0.0))
        place = carla.Location(float(x), float(y), here.transform.location.z + 0.3)
        crowded = sum(part.startswith("flow ") for part in self.actors) >= _MOST
        if crowded or (last is not None and last.get_location().distance(place) < gap_m):
            return
        yaw_deg = float(np.degrees(np.arctan2(y2 - y, x2 - x)))
        model = self._models[int(rng.integers(len(self._models)))]
        try:
            made = self.stage.spawn(model, carla.Transform(place, carla.Rotation(yaw=yaw_deg)))
        except CannotTakePlaceError:
            return  # something passes there; the next tick tries again
        self.actors[f"flow {self._made}"] = made
        self._made += 1


def _is_ordinary(blueprint: Any) -> bool:
    return not attribute(blueprint, "special_type")


def joined(*pieces: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return lines one after the other, each place once."""
    line = np.concatenate(pieces)
    keep: Sequence[bool] = [True, *(np.linalg.norm(np.diff(line, axis=0), axis=1) > 1e-3)]
    distinct: NDArray[np.float64] = line[np.asarray(keep)]
    return distinct
