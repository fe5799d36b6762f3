"""Maps by name: what a script loads when it says load_world("Town03")."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sim_process import carla, connect, running_sim

from zmqcarla.sim.maps import CARLA_MAPS, SQUARES, MapShelf, folders_of
from zmqcarla.sim.roads import MapError
from zmqcarla.sim.scenery import grow
from zmqcarla.sim.town import generate_town


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("maps")
    (path / "OpenDrive").mkdir()
    (path / "OpenDrive" / "Town02.xodr").write_text(generate_town(2, seed=20))
    (path / "Mine.xodr").write_text(generate_town(2, seed=21))
    (path / "Broken.xodr").write_text("<OpenDRIVE></OpenDRIVE>")
    return path


def test_files_come_before_stand_ins_and_serve_both_names_of_a_town(folder: Path) -> None:
    shelf = MapShelf([folder])
    plain, layered = shelf.get("Town02"), shelf.get("Town02_Opt")
    assert plain is not None
    assert layered is not None
    assert plain.opendrive == layered.opendrive == generate_town(2, seed=20)
    assert (plain.name, layered.name) == ("Town02", "Town02_Opt")
    assert shelf.get("Town02") is plain
    stand_in = shelf.get("Town01")
    assert stand_in is not None
    assert stand_in.opendrive == generate_town(3, seed=1)


def test_names_list_what_can_be_loaded(folder: Path) -> None:
    names = MapShelf([folder]).names()
    assert {"Mine", "Town02", "Town02_Opt", "ZmqTown", "Town10HD_Opt", "Town15"} <= set(names)
    assert "Mine_Opt" not in names
    assert len(names) == len(set(names))


def test_a_stand_in_is_told_to_be_one(caplog: pytest.LogCaptureFixture) -> None:
    assert MapShelf().get("Town07") is not None
    assert "a generated town stands in" in caplog.text


def test_stand_ins_are_free_where_carlas_own_tests_drive() -> None:
    for town, squares in SQUARES.items():
        road_map = MapShelf().get(town)
        assert road_map is not None
        houses, trees = grow(road_map)
        places = np.concatenate([houses["centre"], trees["foot"]])[:, :2]
        assert len(places)
        for left, top, right, bottom in squares:
            assert not ((places > (left, top)) & (places < (right, bottom))).all(axis=1).any()


def test_no_map_and_a_map_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    shelf = MapShelf([folder])
    assert shelf.get("Town99") is None
    with pytest.raises(MapError, match="0 roads"):
        shelf.get("Broken")
    shelf.add_file(tmp_path / "Gone.xodr")
    with pytest.raises(MapError, match="cannot read the map 'Gone'"):
        shelf.get("Gone")


def test_folders_come_from_options_then_environment_then_carla_root(tmp_path: Path) -> None:
    (tmp_path / CARLA_MAPS).mkdir(parents=True)
    environment = {"ZMQCARLA_MAPS": "/one:/two", "CARLA_ROOT": str(tmp_path)}
    expected = ["/first", "/one", "/two", str(tmp_path / CARLA_MAPS)]
    assert [str(path) for path in folders_of(["/first"], environment)] == expected
    assert folders_of([], {"CARLA_ROOT": str(tmp_path / "elsewhere")}) == []


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Any]:
    with running_sim("--maps", str(folder), "--map", "Mine") as port:
        yield connect(port)[0]


# python_api.md, carla.Client.load_world: "Creates a new world with default settings using map_name map. All actors in
# the current world will be destroyed." reset_settings: "Option to reset the episode setting to default values"
@pytest.mark.parametrize("name", ["Town02", "Town02_Opt", "/Game/Carla/Maps/Town04", "Carla/Maps/Town01"])
def test_load_world_takes_names_and_paths(client: Any, name: str) -> None:
    world = client.load_world(name)
    assert world.get_map().name == "Carla/Maps/" + name.rsplit("/", 1)[-1]
    library = world.get_blueprint_library()
    truck = library.find("vehicle.carlamotors.firetruck")
    commands = [carla.command.SpawnActor(truck, point) for point in world.get_map().get_spawn_points()]
    assert len(commands) >= 60
    assert not any(response.error for response in client.apply_batch_sync(commands))


def test_settings_go_back_or_stay(client: Any) -> None:
    world = client.get_world()
    world.apply_settings(carla.WorldSettings(synchronous_mode=True, fixed_delta_seconds=0.1))
    world = client.load_world("Town02", reset_settings=False)
    assert world.get_settings().synchronous_mode
    assert world.get_settings().fixed_delta_seconds == pytest.approx(0.1)
    world = client.load_world("Town01")
    assert not world.get_settings().synchronous_mode
    assert not world.get_settings().fixed_delta_seconds


def test_maps_that_are_not_there_or_broken_leave_the_world_alone(client: Any) -> None:
    client.load_world("Mine")
    with pytest.raises(RuntimeError, match="Map 'Town99' not found"):
        client.load_world("Town99")
    with pytest.raises(RuntimeError, match="0 roads"):
        client.load_world("Broken")
    with pytest.raises(RuntimeError, match="opendrive could not be correctly parsed"):
        client.generate_opendrive_world("<OpenDRIVE></OpenDRIVE>")
    assert client.get_world().get_map().name == "Carla/Maps/Mine"
    client.load_world_if_different("Mine")
    assert {"/Game/Carla/Maps/Mine", "/Game/Carla/Maps/Town03"} <= set(client.get_available_maps())
