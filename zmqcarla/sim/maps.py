"""The maps that the simulator can load, by the names that CARLA's scripts use.

A map is an OpenDRIVE file of a folder (its name is the file's stem), or a generated town that stands in for one of
CARLA's: same name, other streets. CARLA ships most towns twice, `Town03` and `Town03_Opt` (the same roads, with layers
of buildings that can be unloaded); one file serves both names.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from zmqcarla.sim.motorway import generate_motorway
from zmqcarla.sim.roads import Bounds, MapError, RoadMap
from zmqcarla.sim.town import TOWN_NAME, generate_town

log = logging.getLogger("zmqcarla.sim")

CARLA_MAPS = "CarlaUE4/Content/Carla/Maps"
"""Where a CARLA release keeps its maps, below its root."""

_OPT = "_Opt"

# CARLA's towns by what they are like: a small town, a larger one, a motorway with junctions beside a town
STAND_INS: Mapping[str, Callable[[], str]] = {
    "Town01": lambda: generate_town(3, seed=1),
    "Town02": lambda: generate_town(2, seed=2),
    "Town03": lambda: generate_town(4, seed=3),
    "Town04": lambda: generate_motorway(lanes=4, seed=4),
    "Town05": lambda: generate_motorway(lanes=3, seed=5),
    "Town06": lambda: generate_motorway(lanes=4, seed=6),
    "Town07": lambda: generate_town(2, seed=7),
    "Town10HD": lambda: generate_town(3, seed=10),
    "Town11": lambda: generate_town(4, seed=11),
    "Town12": lambda: generate_town(5, seed=12),
    "Town13": lambda: generate_town(5, seed=13),
    "Town15": lambda: generate_town(4, seed=15),
}
# Places that CARLA's own tests know by their coordinates, where the real towns have wide roads
SQUARES: Mapping[str, tuple[Bounds, ...]] = {
    "Town03": ((20.0, -270.0, 165.0, -190.0),),
    "Town05": ((20.0, -210.0, 45.0, 220.0),),
}
# those that CARLA ships without a layered twin
_PLAIN_ONLY = frozenset({"Town11", "Town12", "Town13", "Town15"})


def folders_of(options: Iterable[str], environment: Mapping[str, str]) -> list[Path]:
    """Folders to look for OpenDRIVE files in: those given, those of ZMQCARLA_MAPS, those of CARLA_ROOT."""
    named = [*options, *filter(None, environment.get("ZMQCARLA_MAPS", "").split(os.pathsep))]
    below_root = Path(environment.get("CARLA_ROOT", "")) / CARLA_MAPS
    return [Path(name) for name in named] + (
        [below_root] if "CARLA_ROOT" in environment and below_root.is_dir() else []
    )


class MapShelf:
    """All maps by name; each is read when it is first asked for, and kept.

    Args:
        folders: where to look for files; the first that has a name wins. A CARLA release's map folder is searched
            below, because it keeps each town's OpenDRIVE in a folder of its own or in "OpenDrive".
    """

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self._files: dict[str, Path] = {}
        self._loaded: dict[str, RoadMap] = {}
        for folder in folders:
            if not folder.is_dir():
                log.warning("map folder %s: not there", folder)
            for path in sorted(folder.rglob("*.xodr")):
                self._files.setdefault(path.stem, path)

    def add_file(self, path: Path) -> str:
        """Put one file on the shelf, before others of its name; returns the name."""
        self._files[path.stem] = path
        return path.stem

    def names(self) -> list[str]:
        """Names of all maps: files and their twins, the default town, then stand-ins."""
        twins = [_twin(name) for name in self._files if _twin(name) in _CARLA_NAMES]
        return list(dict.fromkeys([*self._files, *twins, TOWN_NAME, *_CARLA_NAMES]))

    def get(self, name: str) -> RoadMap | None:
        """A map by name; None when there is none.

        Raises:
            MapError: its file cannot be read or is no usable OpenDRIVE document.
        """
        if name not in self._loaded:
            path = self._files.get(name) or self._files.get(_twin(name))
            if path is not None:
                self._loaded[name] = RoadMap.load(name, _read(name, path))
            elif name == TOWN_NAME:
                self._loaded[name] = RoadMap.load(name, generate_town())
            elif name in _CARLA_NAMES:
                self._loaded[name] = _stand_in(name)
        return self._loaded.get(name)


def _read(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MapError(f"cannot read the map {name!r} ({path}): {error}") from error


def _stand_in(name: str) -> RoadMap:
    log.warning(
        "map %s: no OpenDRIVE file of that name, so a generated town stands in for it (other streets, same name); "
        "--maps DIR, ZMQCARLA_MAPS or CARLA_ROOT tell where CARLA's .xodr files are",
        name,
    )
    town = name.removesuffix(_OPT)
    return RoadMap.load(name, STAND_INS[town](), SQUARES.get(town, ()))


def _twin(name: str) -> str:
    """The other name of a town's roads: with or without `_Opt`."""
    return name.removesuffix(_OPT) if name.endswith(_OPT) else name + _OPT


_CARLA_NAMES = tuple(name for town in STAND_INS for name in ((town,) if town in _PLAIN_ONLY else (town, _twin(town))))
