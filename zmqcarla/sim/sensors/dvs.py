"""sensor.camera.dvs: an event camera. It tells, pixel by pixel, when brightness has changed by a threshold.

Between two pictures the brightness of a pixel is taken to change evenly. Each time that it has come a threshold further
from where the last event left it, an event is due, at the moment on that way. Source: CARLA's description of its DVS
camera; the sampling is that of Rebecq et al., ESIM (2018).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from zmqcarla.sim import wire
from zmqcarla.sim.sensors.base import Body
from zmqcarla.sim.sensors.camera import Camera
from zmqcarla.sim.studio import Studio
from zmqcarla.sim.view import View
from zmqcarla.sim.world import World

_GREY = np.array([0.1140, 0.5870, 0.2989], np.float32)  # of blue, green and red
_SMALLEST_CHANGE = 1e-6
_LEAST_THRESHOLD = 0.01

Single = NDArray[np.float32]


@dataclass(eq=False, slots=True)
class DvsCamera(Camera):
    """Sends the events since the last picture, in order of time; nothing when there are none, as CARLA does.

    Attributes:
        threshold: changes that make an event, darker and brighter; `sigma` their standard deviations.
        refractory_ns: time for which a pixel is blind after an event.
        log_eps: added to the brightness (0..1) of which the logarithm is taken; None without logarithm.
    """

    KIND: ClassVar[wire.StreamType] = wire.StreamType.DVS
    threshold: tuple[float, float] = (0.3, 0.3)
    sigma: tuple[float, float] = (0.0, 0.0)
    refractory_ns: int = 0
    log_eps: float | None = None
    _chance: np.random.Generator = field(init=False)
    _last: Single | None = None
    _told: Single = field(init=False)
    _told_ns: NDArray[np.int64] = field(init=False)
    _last_ns: int = 0

    def __post_init__(self) -> None:
        # not super(): a slots dataclass is a new class, which super() without arguments does not know
        Camera.__post_init__(self)
        down, up = (self.setting(f"{way}_threshold", 0.3, 1e-4, 1e6) for way in ("negative", "positive"))
        self.threshold = down, up
        down, up = (self.setting(f"sigma_{way}_threshold", 0.0, 0.0, 1e6) for way in ("negative", "positive"))
        self.sigma = down, up
        self.refractory_ns = int(self.setting("refractory_period_ns", 0, 0, 1e18))
        self.log_eps = self.setting("log_eps", 0.001, 1e-9, 1e3) if self.flag("use_log") else None
        self._chance = np.random.default_rng(self.seed)

    def draw(self, view: View, out: NDArray[np.uint8]) -> None:
        """See `Camera`."""
        view.paint(out)

    def measure(self, world: World, studio: Studio) -> Iterable[Body]:
        """The events since the last picture."""
        for _ in Camera.measure(self, world, studio):
            now_ns = round(world.elapsed_s * 1e9)
            events = self._events(self._brightness(), now_ns)
            self._last_ns = now_ns
            if len(events):
                yield (self._head, events.tobytes())

    def _brightness(self) -> Single:
        grey: Single = (self._image[:, :, :3].reshape(-1, 3) @ _GREY).astype(np.float32)
        return grey if self.log_eps is None else np.log(grey / np.float32(255.0) + np.float32(self.log_eps))

    def _events(self, now: Single, now_ns: int) -> NDArray[np.void]:
        """What has happened on the way to a brightness (pixels,): DVS_EVENT (n,)."""
        last, self._last = self._last, now
        if last is None:
            self._told, self._told_ns = now.copy(), np.full(len(now), -1, np.int64)
            return np.empty(0, wire.DVS_EVENT)
        pixel = np.flatnonzero(np.abs(now - last) > _SMALLEST_CHANGE)
        start, end, told = (part[pixel].astype(np.float64) for part in (last, now, self._told))
        way = self._ways(end > start)
        # how many thresholds lie between the last event's brightness and this one's, on the way of this change
        count = np.maximum(np.floor((end - told) / way + 1e-9), 0.0).astype(np.intp)
        self._told[pixel] = told + way * count
        owner = np.repeat(np.arange(len(pixel)), count)
        rank = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count) + 1
        share = np.clip((told[owner] + way[owner] * rank - start[owner]) / (end - start)[owner], 0.0, 1.0)
        time_ns = self._last_ns + (share * (now_ns - self._last_ns)).astype(np.int64)
        order = np.argsort(time_ns, kind="stable")
        events = np.empty(len(order), wire.DVS_EVENT)
        at = pixel[owner[order]]
        events["y"], events["x"] = np.divmod(at, self._image.shape[1])
        events["time_ns"], events["brighter"] = time_ns[order], way[owner[order]] > 0.0
        return self._rested(events, at) if self.refractory_ns else events

    def _ways(self, brighter: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Change that makes an event, negative where it gets darker: (n,)."""
        down, up = self.threshold
        step = np.where(brighter, up, down)
        if any(self.sigma):
            down, up = self.sigma
            noise = self._chance.normal(size=len(step)) * np.where(brighter, up, down)
            step = np.maximum(step + noise, _LEAST_THRESHOLD)
        return np.where(brighter, step, -step)

    def _rested(self, events: NDArray[np.void], pixel: NDArray[np.intp]) -> NDArray[np.void]:
        """Those events (in order of time) whose pixels (n,) are not blind from one before."""
        kept: list[int] = []
        told = self._told_ns
        for number, (at, moment) in enumerate(zip(pixel.tolist(), events["time_ns"].tolist(), strict=True)):
            if told[at] < 0 or moment - told[at] >= self.refractory_ns:
                told[at] = moment
                kept.append(number)
        return events[kept]
