"""The tape deck of a simulator: at most one recorder and one replayer, and what happens to them in a tick."""

import logging
from pathlib import Path

from zmqcarla.sim.recorder import Recorder
from zmqcarla.sim.recording import RecordingError
from zmqcarla.sim.replayer import Replayer, ReplaySettings
from zmqcarla.sim.world import World

log = logging.getLogger("zmqcarla.sim")


class Tape:
    """Records and replays a world.

    Attributes:
        settings: of replays; they stay from one to the next.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._recorder: Recorder | None = None
        self._replayer: Replayer | None = None
        self.settings = ReplaySettings()

    def record(self, path: Path, date: str) -> None:
        """Start to record, and end a recording that runs.

        Raises:
            OSError: the file cannot be written.
            RecordingError: a file is there that is no recording.
        """
        self.stop_recorder()
        self._recorder = Recorder(self._world, path, date)

    def stop_recorder(self) -> None:
        """End the recording that runs, if any."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close()

    def replay(self, replayer: Replayer) -> None:
        """Replay from the next tick on."""
        self._replayer = replayer

    def stop_replayer(self, keep_actors: bool) -> None:
        """End the replay that runs, if any."""
        replayer, self._replayer = self._replayer, None
        if replayer is not None:
            replayer.finish(keep_actors)

    def stop(self) -> None:
        """End both; the episode is over."""
        self.stop_recorder()
        self.stop_replayer(keep_actors=False)

    def before_tick(self, delta_s: float) -> None:
        """Let the replay go on."""
        if self._replayer is None:
            return
        if self._replayer.done:
            self.stop_replayer(keep_actors=True)
            return
        try:
            self._replayer.tick(delta_s)
        except RecordingError as error:
            log.warning("the replay ends: %s", error)
            self.stop_replayer(keep_actors=True)

    def after_tick(self) -> None:
        """Record the tick."""
        if self._recorder is None:
            return
        try:
            self._recorder.write()
        except OSError as error:
            log.warning("the recording %s ends: %s", self._recorder.path, error)
            self.stop_recorder()
