"""Recorder and replayer through the unmodified client, and recordings that are cut off, damaged or none at all."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgpack
import pytest
from sim_process import DELTA_S, carla, connect, make_synchronous, running_sim

from zmqcarla.sim import recording_texts as texts
from zmqcarla.sim.recording import MAGIC, Frame, RecordingError, RecordingReader, RecordingWriter
from zmqcarla.sim.wire import RECORD_BYTES

TICKS = 120


@pytest.fixture(scope="module")
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def port(state_home: Path) -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(state_home))
        with running_sim() as port:
            yield port


@pytest.fixture
def client(port: int) -> Iterator[Any]:
    client, world = connect(port)
    make_synchronous(world)
    client.reload_world(False)
    yield client
    client.stop_recorder()
    client.stop_replayer(False)
    client.set_replayer_time_factor(1.0)
    client.set_replayer_ignore_hero(False)
    client.set_replayer_ignore_spectator(False)
    world = client.reload_world(False)
    world.apply_settings(carla.WorldSettings(synchronous_mode=False, fixed_delta_seconds=0.0))


State = tuple[float, ...]


def state_of(actor: Any) -> State:
    t, v = actor.get_transform(), actor.get_velocity()
    return (t.location.x, t.location.y, t.location.z, t.rotation.pitch, t.rotation.yaw, v.x, v.y, v.z)


class Drive:
    """A hero that runs into a parked car, a third car that stands, and a walker: recorded, then all destroyed."""

    def __init__(self, client: Any, path: Path) -> None:
        world = client.get_world()
        self.path = str(path)
        assert client.start_recorder(self.path) == self.path
        library, points = world.get_blueprint_library(), world.get_map().get_spawn_points()
        blueprint = library.find("vehicle.tesla.model3")
        blueprint.set_attribute("role_name", "hero")
        ahead = carla.Transform(points[0].location + points[0].get_forward_vector() * 12.0, points[0].rotation)
        aside = carla.Transform(points[3].location + carla.Location(z=1.0), points[3].rotation)
        self.hero = world.spawn_actor(blueprint, points[0])
        self.parked = world.spawn_actor(library.find("vehicle.audi.tt"), ahead)
        self.walker = world.spawn_actor(library.find("walker.pedestrian.0001"), aside)
        self.actors = [self.hero, self.parked, self.walker]
        self.ids = [actor.id for actor in self.actors]
        self.hero.apply_control(carla.VehicleControl(throttle=0.7))
        self.walker.apply_control(carla.WalkerControl(carla.Vector3D(0.0, 1.0, 0.0), 1.4, False))
        self.lights = world.get_actors().filter("traffic.traffic_light")
        self.states: list[list[State]] = []
        self.colours: list[list[Any]] = []
        for _ in range(TICKS):
            world.tick()
            self.states.append([state_of(actor) for actor in self.actors])
            self.colours.append([light.state for light in self.lights])
        client.stop_recorder()
        for actor in self.actors:
            actor.destroy()
        world.tick()


@pytest.fixture
def drive(client: Any, tmp_path: Path) -> Drive:
    return Drive(client, tmp_path / "drive.log")


# ------------------------------------------------------------------------------------------------------------- replay


def test_a_replay_is_what_was_recorded_to_the_bit(client: Any, drive: Drive) -> None:
    world = client.get_world()
    text = client.replay_file(drive.path, 0.0, 0.0, 0)
    total_s = (TICKS - 1) * DELTA_S
    assert text.splitlines() == [
        f"Replaying File: {drive.path}",
        f"Total time recorded: {total_s:g}",
        f"Replaying from 0 s - {total_s:g} s ({total_s:g} s) at 1.0x",
    ]
    for number in range(1, TICKS):
        world.tick()
        assert [state_of(world.get_actor(actor_id)) for actor_id in drive.ids] == drive.states[number]
        assert [light.state for light in drive.lights] == drive.colours[number]
    assert world.get_actor(drive.hero.id).get_control().throttle == pytest.approx(0.7)
    for _ in range(20):
        world.tick()
    hero = world.get_actor(drive.hero.id)
    assert hero.get_location().distance(carla.Location(*drive.states[-1][0][:3])) > 1.0, "the hero should drive on"


def test_a_part_of_it_at_another_speed(client: Any, drive: Drive) -> None:
    world = client.get_world()
    client.set_replayer_time_factor(0.5)
    assert "at 0.5x" in client.replay_file(drive.path, -3.0, 1.0, 0)
    first = TICKS - 1 - round(3.0 / DELTA_S)
    places: list[float] = []
    for _ in range(4):
        world.tick()
        places.append(world.get_actor(drive.walker.id).get_location().y)
    recorded = [drive.states[first + step][2][1] for step in range(3)]
    between = [(a + b) / 2 for a, b in itertools.pairwise(recorded)]
    assert places == pytest.approx([between[0], recorded[1], between[1], recorded[2]], abs=1e-3)


def test_without_the_hero_and_with_the_spectator_left_alone(client: Any, drive: Drive) -> None:
    world = client.get_world()
    client.set_replayer_ignore_hero(True)
    client.set_replayer_ignore_spectator(True)
    place = carla.Transform(carla.Location(1.0, 2.0, 3.0))
    world.get_spectator().set_transform(place)
    client.replay_file(drive.path, 0.0, 0.0, 0)
    world.tick()
    assert [vehicle.id for vehicle in world.get_actors().filter("vehicle.*")] == [drive.parked.id]
    assert world.get_spectator().get_location() == place.location


def test_the_spectator_follows(client: Any, drive: Drive) -> None:
    world = client.get_world()
    client.replay_file(drive.path, 1.0, 0.0, drive.hero.id)
    world.tick()
    hero, spectator = world.get_actor(drive.hero.id).get_transform(), world.get_spectator().get_transform()
    assert hero.location.distance(spectator.location) == pytest.approx(125.0**0.5, abs=0.01)
    assert spectator.rotation.pitch == pytest.approx(-25.0)
    client.replay_file(drive.path, 1.0, 0.0, drive.hero.id, False, carla.Transform(carla.Location(z=40.0)))
    world.tick()
    assert world.get_spectator().get_location().z == pytest.approx(40.0, abs=0.1)


def test_actors_that_still_live_are_taken_over_and_given_back(client: Any, drive: Drive) -> None:
    world = client.get_world()
    client.replay_file(drive.path, 0.0, 0.0, 0)
    world.tick()
    client.stop_replayer(True)
    world.tick()
    assert len(world.get_actors().filter("vehicle.*")) == 2
    client.replay_file(drive.path, 2.0, 0.0, 0)
    world.tick()
    assert len(world.get_actors().filter("vehicle.*")) == 2
    client.stop_replayer(False)
    world.tick()
    assert len(world.get_actors().filter("vehicle.*")) == 2, "they were there before the replay"


def test_what_a_replay_brought_goes_when_it_is_stopped(client: Any, drive: Drive) -> None:
    world = client.get_world()
    client.replay_file(drive.path, 0.0, 0.0, 0)
    world.tick()
    assert len(world.get_actors().filter("vehicle.*")) == 2
    client.stop_replayer(False)
    world.tick()
    assert len(world.get_actors().filter("vehicle.*")) == 0


def test_sensors_are_replayed_when_asked_for(client: Any, tmp_path: Path) -> None:
    world = client.get_world()
    library = world.get_blueprint_library()
    path = str(tmp_path / "sensor.log")
    client.start_recorder(path)
    car = world.spawn_actor(library.find("vehicle.audi.tt"), world.get_map().get_spawn_points()[0])
    sensor = world.spawn_actor(library.find("sensor.other.imu"), carla.Transform(), attach_to=car)
    world.tick()
    world.tick()
    client.stop_recorder()
    sensor.destroy()
    car.destroy()
    for wanted in (False, True):
        client.replay_file(path, 0.0, 0.0, 0, wanted)
        world.tick()
        assert len(world.get_actors().filter("sensor.*")) == wanted
        client.stop_replayer(False)


def test_a_new_episode_ends_the_recording(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "ended.log"
    client.start_recorder(str(path))
    world = client.get_world()
    world.tick()
    world = client.reload_world(False)
    size = path.stat().st_size
    world.tick()
    assert path.stat().st_size == size
    assert client.show_recorder_file_info(str(path), False).endswith("Frames: 1\nDuration: 0 seconds\n")


# -------------------------------------------------------------------------------------------------------------- texts


def test_what_is_told_about_a_recording(client: Any, drive: Drive) -> None:
    lines = client.show_recorder_file_info(drive.path, False).splitlines()
    assert lines[0] == "Version: 1"
    assert lines[1] == "Map: ZmqTown"
    assert lines[2].startswith("Date: ")
    assert lines[4] == "Frame 1 at 0 seconds"
    assert any(line.startswith(f" Create {drive.hero.id}: vehicle.tesla.model3 (1) at (") for line in lines)
    assert "  role_name = hero" in lines
    assert f" Collision id 0 between {drive.hero.id} (hero) with {drive.parked.id}" in lines
    assert lines[-2:] == [f"Frames: {TICKS}", f"Duration: {(TICKS - 1) * DELTA_S:g} seconds"]
    longer = client.show_recorder_file_info(drive.path, True)
    for part in (" Positions: ", " State traffic lights: ", " Vehicle animations: ", " Walker animations: "):
        assert part in longer


def test_the_table_of_collisions(client: Any, drive: Drive) -> None:
    for first, second, found in (("h", "v", True), ("a", "a", True), ("v", "h", True), ("w", "a", False)):
        table = client.show_recorder_collisions(drive.path, first, second).splitlines()
        assert table[4].split() == ["Time", "Types", "Id", "Actor", "1", "Id", "Actor", "2"]
        rows = table[5 : table.index("", 4)]
        assert bool(rows) == found
        for row in rows:
            types = ["h", "v", str(drive.hero.id), "vehicle.tesla.model3", str(drive.parked.id), "vehicle.audi.tt"]
            assert row.split()[1:] == types


def test_the_table_of_the_blocked(client: Any, drive: Drive) -> None:
    table = client.show_recorder_actors_blocked(drive.path, 1.0, 10.0).splitlines()
    assert table[4].split() == ["Time", "Id", "Actor", "Duration"]
    blocked = [row.split()[1:3] for row in table[5 : table.index("", 4)]]
    assert blocked == [[str(drive.parked.id), "vehicle.audi.tt"]]


def test_a_bare_name_lies_in_the_users_state_directory(client: Any, state_home: Path) -> None:
    path = state_home / "zmqcarla/saved/short.log"
    assert client.start_recorder("short.log") == str(path)
    client.get_world().tick()
    client.stop_recorder()
    assert client.show_recorder_file_info("short.log", False).startswith("Version: 1\nMap: ZmqTown\n")


# ------------------------------------------------------------------------------------------------------- what is amiss


def test_no_such_file_and_files_that_are_no_recording(client: Any, tmp_path: Path) -> None:
    missing, other = str(tmp_path / "missing.log"), tmp_path / "other.txt"
    other.write_text("a letter")
    told = f"File {missing} not found on server\n"
    assert client.show_recorder_file_info(missing, False) == told
    assert client.show_recorder_collisions(missing, "a", "a") == told
    assert client.show_recorder_actors_blocked(missing, 1.0, 1.0) == told
    assert client.replay_file(missing, 0.0, 0.0, 0) == f"Replaying File: {missing}\n{told}"
    assert "is not a CARLA recorder" in client.show_recorder_file_info(str(other), False)
    assert "is not a CARLA recorder" in client.replay_file(str(other), 0.0, 0.0, 0)
    with pytest.raises(RuntimeError, match="choose another name"):
        client.start_recorder(str(other))
    assert other.read_text() == "a letter"
    assert client.start_recorder("/proc/nowhere/drive.log") == ""


def test_a_recording_of_another_map(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "far.log"
    writer = RecordingWriter(path, "Town99", "today")
    writer.write(Frame(0.0, [], [], [], [], b""))
    writer.close()
    assert client.replay_file(str(path), 0.0, 0.0, 0).endswith("Could not load mapfile Town99\n")


def frames_of(path: Path) -> list[Frame]:
    reader = RecordingReader(path)
    try:
        return list(reader)
    finally:
        reader.close()


@pytest.fixture
def short(tmp_path: Path) -> Path:
    path = tmp_path / "short.log"
    writer = RecordingWriter(path, "ZmqTown", "today")
    for number in range(3):
        writer.write(Frame(float(number), [], [number], [], [], bytes([number]) * RECORD_BYTES))
    writer.close()
    return path


def test_a_recording_cut_off_anywhere_is_read_up_to_there(short: Path) -> None:
    whole = short.read_bytes()
    assert [frame.deaths for frame in frames_of(short)] == [[0], [1], [2]]
    for length in range(len(MAGIC), len(whole)):
        short.write_bytes(whole[:length])
        try:
            found = [frame.deaths for frame in frames_of(short)]
        except RecordingError:
            assert length < len(MAGIC) + 60, "only a header that is cut off is an error"
            continue
        assert found == [[0], [1], [2]][: len(found)]
        reader = RecordingReader(short)
        assert reader.survey()[0] == len(found)
        reader.close()


def test_a_recording_with_any_byte_changed_is_an_error_or_the_same(short: Path) -> None:
    whole = short.read_bytes()
    for place in range(len(whole)):
        short.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert [frame.deaths for frame in frames_of(short)] in ([[0], [1], [2]], [[0], [1]], [[0]], [])
        except RecordingError:
            continue


def chunk(content: object, packed_size: int | None = None, plain_size: int | None = None) -> bytes:
    plain = cast("bytes", cast("Any", msgpack).packb(content))
    packed = zlib.compress(plain)
    sizes = (packed_size or len(packed), plain_size or len(plain))
    return struct.pack("<IIId", *sizes, zlib.crc32(packed), 0.0) + packed


NOT_A_FRAME: list[object] = [
    5,
    [],
    [[], [], [], [], b"short"],
    [[], [-1], [], [], b""],
    [[], ["x"], [], [], b""],
    [[], [], [[1]], [], b""],
    [[[1, "vehicle.audi.tt", [], 0, [0.0] * 5]], [], [], [], b""],
    [[[1, "vehicle.audi.tt", [], 0, [float("nan")] * 6]], [], [], [], b""],
    [[[1, "vehicle.audi.tt", [[1]], 0, [0.0] * 6]], [], [], [], b""],
    [[], [], [], [], b"\xff" * RECORD_BYTES],
]


@pytest.mark.parametrize("content", NOT_A_FRAME)
def test_a_frame_that_is_none_is_an_error(tmp_path: Path, content: object) -> None:
    path = tmp_path / "odd.log"
    path.write_bytes(MAGIC + chunk([1, "ZmqTown", "today"]) + chunk(content))
    with pytest.raises(RecordingError, match="byte"):
        frames_of(path)
    assert "The rest cannot be read" in texts.file_info(str(path), True)


def test_a_damaged_recording_is_refused_and_the_lights_go_on(client: Any, drive: Drive) -> None:
    Path(drive.path).write_bytes(MAGIC + chunk([1, "ZmqTown", "today"]) + chunk(5))
    world = client.get_world()
    assert "is not a CARLA recorder" in client.replay_file(drive.path, 0.0, 0.0, 0)
    light = drive.lights[0]
    before = light.get_elapsed_time()
    for _ in range(2):
        world.tick()
    assert light.get_elapsed_time() != before


@pytest.mark.parametrize("sizes", [(2**31, None), (None, 2**31), (None, 5)])
def test_sizes_are_not_believed(tmp_path: Path, sizes: tuple[int | None, int | None]) -> None:
    path = tmp_path / "large.log"
    path.write_bytes(MAGIC + chunk([1, "ZmqTown", "today"]) + chunk([[], [], [], [], b""], *sizes))
    with pytest.raises(RecordingError, match="damaged at byte"):
        frames_of(path)


def test_another_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "new.log"
    path.write_bytes(MAGIC + chunk([2, "ZmqTown", "today"]))
    with pytest.raises(RecordingError, match="expected a recording of version 1, found 2"):
        RecordingReader(path)
