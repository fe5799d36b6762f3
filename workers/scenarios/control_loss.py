"""The ego loses its grip for a moment on each of three patches of debris."""

from __future__ import annotations

from typing import Final

import numpy as np

from zmqcarla.workers.criteria.base import Tick
from zmqcarla.workers.scenarios.base import Control, Scenario, distance_m
from zmqcarla.workers.scenarios.stage import beside

_PATCHES_M: Final = (14.0, 48.0, 74.0)
_PATCH_RADIUS_M: Final = 2.0
_END_M: Final = 110.0
_STEER: Final = (0.055, 0.015)
_THROTTLE: Final = (0.03, 0.01)


class ControlLoss(Scenario):
    """Mean and spread of what is added to steering and throttle are the Leaderboard's; it never steers left there."""

    own_state = ("_seed", "_signs", "_on_patch", "_frame")

    def plan(self, rng: np.random.Generator) -> None:
        """Choose to which side each patch pulls."""
        self._seed = int(rng.integers(2**31))
        self._signs = [float(sign) for sign in rng.choice((-1.0, 1.0), size=2 * len(_PATCHES_M))]
        left_m = self.stage.route.length_m - self.trigger_s_m
        self._lanes = [self.stage.lane_at(self.trigger_s_m + patch_m) for patch_m in _PATCHES_M if patch_m < left_m]
        self._on_patch = -1
        self._frame = 0

    def build(self, tick: Tick) -> None:
        """Lay the debris."""
        del tick
        for k, lane in enumerate(self._lanes):
            part = f"debris {k}"
            if part not in self.actors:
                self.actors[part] = self.stage.spawn("static.prop.dirtdebris01", beside(lane, up_m=0.0), moves=False)

    def step(self, tick: Tick) -> bool:
        """See which patch the ego is on."""
        self._frame += 1
        inside = [distance_m(tick, lane.transform.location) < _PATCH_RADIUS_M for lane in self._lanes]
        self._on_patch = inside.index(True) if any(inside) else -1
        return tick.s_m > self.trigger_s_m + _END_M

    def disturb(self, control: Control) -> Control:
        """Add the patch's pull, different in every tick."""
        if not self.running or self._on_patch < 0:
            return control
        noise = np.random.default_rng((self._seed, self._frame)).normal(size=2)
        steer_sign, throttle_sign = self._signs[2 * self._on_patch : 2 * self._on_patch + 2]
        steer, throttle, brake = control
        steer += steer_sign * _STEER[0] + _STEER[1] * float(noise[0])
        throttle += throttle_sign * _THROTTLE[0] + _THROTTLE[1] * float(noise[1])
        return min(max(steer, -1.0), 1.0), min(max(throttle, -1.0), 1.0), brake
