"""What a vector env answers by asking each env, made of `call` alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from zmqcarla.contract import generator


class EnvCalls(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """The part of `VectorEnv` that reads something of every env."""

    def call(self, name: str, *args: Any, rows: Sequence[int] | None = None, **kwargs: Any) -> tuple[Any, ...]:
        """See `VectorEnv.call`."""
        raise NotImplementedError

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Read an attribute of every env."""
        return self.call(name)

    def render(self) -> tuple[Any, ...] | None:
        """Ask each env for a frame; one a row."""
        return self.call("render")

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each env's random generator."""
        return self.get_attr("np_random_seed")

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """A copy of each env's random generator."""
        return tuple(generator(state) for state in self.get_attr("np_random.bit_generator.state"))
