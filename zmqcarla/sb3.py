"""A stable-baselines3 `VecEnv` over a zmqcarla vector env, so that SB3's algorithms train on a pool.

    vec = zmqcarla.make_vec_env(n=8, autoreset_mode="SameStep")
    model = PPO("MultiInputPolicy", zmqcarla.sb3.VecEnv(vec))

SB3's rules differ from gymnasium's: an env is reset in the step that ended its episode, its last observation is
info["terminal_observation"], infos are a list, rewards float32. Needs the extra `zmqcarla[sb3]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
from gymnasium import logger
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from zmqcarla.row_infos import row_infos
from zmqcarla.vector_env import VectorEnv

try:
    from stable_baselines3.common.vec_env import VecEnv as _Sb3VecEnv  # pyright: ignore[reportMissingImports]
except ImportError as _error:
    raise ImportError(
        "expected stable-baselines3 for zmqcarla.sb3, found none that imports; install it: pip install 'zmqcarla[sb3]'"
    ) from _error

Indices = int | Iterable[int] | None
StepReturn = tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]


class VecEnv(_Sb3VecEnv):  # type: ignore[misc]
    """The rows of a vector env under the contract of SB3's SubprocVecEnv.

    A row whose worker died is done with info["TimeLimit.truncated"] and info["worker_lost"], and is reset at once in
    the worker's next process: the step takes as long as the restart, and its observation begins the new episode.

    Args:
        vector_env: from `make_vec_env` or `AsyncVectorEnv`, made with autoreset_mode="SameStep"; owned from now on.

    Raises:
        ValueError: the vector env has another autoreset mode.
        ImportError: (of the module) there is no stable-baselines3.
    """

    reset_infos: list[dict[str, Any]]

    def __init__(self, vector_env: VectorEnv) -> None:
        if vector_env.autoreset_mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                f'expected a vector env made with autoreset_mode="SameStep", as SB3 resets an env in the step that '
                f"ended its episode; found {vector_env.autoreset_mode}"
            )
        self._vec = vector_env
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)

    def reset(self) -> Any:
        """Reset every env, with what `seed` and `set_options` said since the last reset.

        Returns:
            Observations, each leaf (num_envs, *shape): an array, or a dict or tuple of arrays.
        """
        observations: Any = None
        for options, mask in self._options_and_rows():
            observations, infos = self._vec.reset(seed=self._seeds, options=options)
            self._note_reset(infos, mask)
        self._reset_seeds()
        self._reset_options()
        return observations

    def _options_and_rows(self) -> list[tuple[dict[str, Any] | None, NDArray[np.bool_]]]:
        """One reset for each different options: what it is given, and bool (num_envs,), which rows it is for."""
        keys = [cloudpickle.dumps(options) if options else b"" for options in self._options]
        if len(set(keys)) == 1:
            return [(self._options[0] or None, np.ones(self.num_envs, np.bool_))]
        masks = {key: np.array([other == key for other in keys]) for key in keys}
        return [({**self._options[keys.index(key)], "reset_mask": mask}, mask) for key, mask in masks.items()]

    def _note_reset(self, infos: dict[str, Any], mask: NDArray[np.bool_]) -> None:
        each = row_infos(infos, self.num_envs)
        self.reset_infos = [
            new if chosen else old for old, new, chosen in zip(self.reset_infos, each, mask, strict=True)
        ]

    def step_async(self, actions: NDArray[Any]) -> None:
        """Send one action to each env; `step_wait` brings the results."""
        self._vec.step_async(actions)

    def step_wait(self) -> StepReturn:
        """The results of `step_async`.

        Returns:
            Observations (of the next episode where one ended), rewards float32 (num_envs,), dones bool (num_envs,),
            and one dict of infos a row.
        """
        observations, rewards, terminated, truncated, batch = self._vec.step_wait()
        dones = terminated | truncated
        infos = row_infos(batch, self.num_envs)
        lost = np.array(["worker_lost" in info for info in infos]) & dones
        for row in np.flatnonzero(dones).tolist():
            infos[row] = self._end_episode(row, infos[row])
        for info, limit in zip(infos, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = limit
        if lost.any():
            observations, reset_infos = self._vec.reset(options={"reset_mask": lost})
            self._note_reset(reset_infos, lost)
        return observations, rewards.astype(np.float32), dones, infos

    def _end_episode(self, row: int, info: dict[str, Any]) -> dict[str, Any]:
        """Part the infos of an episode's last step from those of the reset that followed in it."""
        last = {**info.pop("final_info"), "terminal_observation": info.pop("final_obs")}
        self.reset_infos[row] = info
        return last

    def close(self) -> None:
        """Release the rows, and take down a private pool; safe to call twice."""
        self._vec.close()

    # --- one env at a time ---

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the envs at `indices` (all without); one result each."""
        return list(self._vec.call(method_name, *method_args, rows=self._rows_at(indices), **method_kwargs))

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Read an attribute of the envs at `indices`; a method is called, for it cannot travel."""
        return self.env_method(attr_name, indices=indices)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of the envs at `indices` to one value."""
        rows = self._rows_at(indices)
        self._vec.set_attr(attr_name, [value] * len(rows), rows)

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """Whether a wrapper with the name of `wrapper_class` is around each env at `indices`."""
        return [wrapper_class.__name__ in self._wrapper_names(row) for row in self._rows_at(indices)]

    def _wrapper_names(self, row: int) -> list[str]:
        """Class names of the wrappers around one env, outermost first; the env itself has no `class_name`."""
        names: list[str] = []
        while True:
            try:
                names += self.env_method("env." * len(names) + "class_name", indices=row)
            except AttributeError:
                return names

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """One picture an env, uint8 (height, width, 3)."""
        if self.render_mode != "rgb_array":
            logger.warn(f'expected render_mode="rgb_array" for pictures, found {self.render_mode!r}')
            return [None] * self.num_envs
        return self.env_method("render")

    def _rows_at(self, indices: Indices) -> list[int]:
        return [range(self.num_envs)[row] for row in self._get_indices(indices)]
