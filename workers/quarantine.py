"""Episodes that kill their worker again and again are not begun any more.

A route can make CarlaUE4 crash each time it is driven; every attempt costs a row a minute and the worker a restart of
its budget. So an env process says on its status page which episode it runs, the supervisor counts the deaths of each,
and one that has killed too often is written into a file that all env processes of the supervisor read at each reset.

An episode has a name when it can be asked for again: by its seed and options, or by the route that was drawn. One that
was drawn freely, without a seed, has none, and will not come again either.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from zmqcarla.broker.errors import QuarantinedEpisodeError
from zmqcarla.shm.status_page import EPISODE_BYTES, StatusPage

_DRAWS: Final = 20
"""How often another route is drawn before all of them count as quarantined."""


def episode_name(env_id: str, seed: int | None, options: dict[str, Any] | None) -> str:
    """What stands for an episode that was asked for; empty when nothing was fixed."""
    if seed is None and not options:
        return ""
    parts = [f"seed={seed}"] if seed is not None else []
    parts += [f"{key}={value!r}" for key, value in sorted((options or {}).items())]
    return _short(f"{env_id} {' '.join(parts)}")


def route_name(env_id: str, info: dict[str, Any]) -> str:
    """What stands for the route that was drawn; empty for an env without routes."""
    route_id = info.get("route_id")
    return _short(f"{env_id} route={route_id!r}") if route_id else ""


def _short(name: str) -> str:
    """Fits the page; a long one is told from others like it by a hash."""
    encoded = name.encode()
    if len(encoded) <= EPISODE_BYTES:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    return f"{encoded[: EPISODE_BYTES - 16].decode(errors='ignore')}... {digest}"


class Quarantine:
    """Counts deaths; decides, and knows no file and no clock."""

    def __init__(self, episodes: Iterable[str] = ()) -> None:
        self.episodes = set(episodes)
        self._deaths: dict[str, collections.deque[float]] = {}

    def died(self, episode: str, now: float, deaths: int, window_s: float) -> bool:
        """A worker died in this episode; whether that was once too often.

        Args:
            episode: its name; empty for one without.
            now: the time, in seconds of any steady clock.
            deaths: so many within the window are too many; 0 for never.
            window_s: deaths that are older no longer count.
        """
        if not episode or not deaths or episode in self.episodes:
            return False
        moments = self._deaths.setdefault(episode, collections.deque(maxlen=deaths))
        moments.append(now)
        if len(moments) < deaths or now - moments[0] > window_s:
            return False
        self.episodes.add(episode)
        del self._deaths[episode]
        return True


def read_episodes(path: Path) -> frozenset[str]:
    """Those in a file; none when there is no file."""
    try:
        return frozenset(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return frozenset()


def write_episodes(path: Path, episodes: Iterable[str]) -> None:
    """Replace the file at once, so that nobody reads half of it."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(json.dumps(sorted(episodes)), encoding="utf-8")
    new.replace(path)


class EpisodeGate:
    """Resets envs, in the env process: names the episode on the page and begins none that is in quarantine.

    Args:
        page: of this process.
        path: of the supervisor's list; None for no quarantine.
    """

    def __init__(self, page: StatusPage, path: Path | None) -> None:
        self._page = page
        self._path = path

    def reset(self, env: Any, env_id: str, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, Any]:
        """Reset the env and return what it returns.

        Raises:
            QuarantinedEpisodeError: the episode that was asked for has killed too many workers, or all routes have.
        """
        episodes = frozenset[str]() if self._path is None else read_episodes(self._path)
        name = episode_name(env_id, seed, options)
        if name in episodes:
            raise QuarantinedEpisodeError(_text(name))
        route = ""
        for _ in range(_DRAWS):
            self._page.name_episode(name)
            observation, info = env.reset(seed=seed, options=options)
            route = route_name(env_id, info)
            if route in episodes and name:
                raise QuarantinedEpisodeError(_text(route))
            if route not in episodes:
                if not name:
                    self._page.name_episode(route)
                return observation, info
        raise QuarantinedEpisodeError(f"drew {_DRAWS} routes, and all of them are in quarantine; {_text(route)}")


def _text(name: str) -> str:
    return (
        f"expected an episode that workers survive, found one that killed too many of them: {name}; see `zmqcarla "
        "events`, ask for another seed or route, or start the pool anew to try it again"
    )
