"""One row of a pool as a plain `gymnasium.Env`."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from zmqcarla.row_infos import row_infos
from zmqcarla.vector_env import VectorEnv


class RemoteEnv(gymnasium.Env[Any, Any]):
    """A single env in a worker. Episodes end as in any `gymnasium.Env`: the caller resets.

    Args:
        vector_env: of one row; this env owns it.
    """

    def __init__(self, vector_env: VectorEnv) -> None:
        if vector_env.num_envs != 1:
            raise ValueError(f"expected a vector env of 1 row, found {vector_env.num_envs}")
        self._vector_env = vector_env
        self.observation_space = vector_env.single_observation_space
        self.action_space = vector_env.single_action_space
        self.metadata = {key: value for key, value in vector_env.metadata.items() if key != "autoreset_mode"}
        self.render_mode = vector_env.render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the env in its worker."""
        super().reset(seed=seed)
        observations, infos = self._vector_env.reset(seed=seed, options=options)
        return self._first(observations), row_infos(infos, 1)[0]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the env in its worker."""
        empty: Any = create_empty_array(self.action_space, 1)
        batch = concatenate(self.action_space, [action], empty)
        observations, rewards, terminated, truncated, infos = self._vector_env.step(batch)
        return (
            self._first(observations),
            float(rewards[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            row_infos(infos, 1)[0],
        )

    def render(self) -> Any:
        """The worker's frame."""
        frames = self._vector_env.render()
        return None if frames is None else frames[0]

    # --- snapshots, as `VectorEnv` has them ---

    def save_snapshot(self, name: str | None = None) -> str:
        """Save this moment of the episode; its id, which is the name if there is one."""
        return self._vector_env.save_snapshot(name)

    def restore_snapshot(self, snapshot: str, level: str = "state") -> tuple[Any, dict[str, Any]]:
        """Go back to a saved moment: reset(options={"snapshot": snapshot, "level": level})."""
        return self.reset(options={"snapshot": snapshot, "level": level})

    def list_snapshots(self) -> list[dict[str, Any]]:
        """What is known of each snapshot: its id and more."""
        return self._vector_env.list_snapshots()[0]

    def delete_snapshot(self, snapshot: str) -> None:
        """Forget a snapshot."""
        self._vector_env.delete_snapshot(snapshot)

    def export_snapshot(self, snapshot: str) -> bytes:
        """A snapshot as bytes, for `import_snapshot` of an env with the same settings."""
        return self._vector_env.export_snapshot(snapshot, 0)

    def import_snapshot(self, data: bytes) -> str:
        """Take what an env exported; the id that it carries."""
        return self._vector_env.import_snapshot(data)

    def close(self) -> None:
        """Release the row, and take down a private pool."""
        self._vector_env.close()

    def _first(self, batch: Any) -> Any:
        return next(iter(iterate(self._vector_env.observation_space, batch)))
