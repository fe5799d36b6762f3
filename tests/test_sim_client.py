"""The unmodified carla client against a running simulator: what a normal script does."""

from __future__ import annotations

import gc
import math
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sim_process import DELTA_S, carla, connect, make_synchronous, running_sim

GET_S = 10.0


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_sim() as port:
        yield port


@pytest.fixture
def client(port: int) -> Iterator[Any]:
    client, world = connect(port)
    make_synchronous(world)
    world = client.reload_world(False)
    world.tick()
    yield client
    world = client.get_world()
    # sensors stop before they are destroyed, and all is gone before the next test asks for a fresh world
    for actor in world.get_actors():
        if actor.type_id.startswith("sensor.") and actor.is_listening:
            actor.stop()
    client.reload_world(False)
    world.apply_settings(carla.WorldSettings(synchronous_mode=False, fixed_delta_seconds=0.0))
    gc.collect()


@pytest.fixture
def world(client: Any) -> Any:
    return client.get_world()


def spawn(world: Any, type_id: str, place: Any = 0, parent: Any = None, **attributes: object) -> Any:
    blueprint = world.get_blueprint_library().find(type_id)
    for name, value in attributes.items():
        blueprint.set_attribute(name, str(value))
    if isinstance(place, int):
        place = world.get_map().get_spawn_points()[place]
    return world.spawn_actor(blueprint, place, attach_to=parent)


def listen(sensor: Any) -> queue.Queue[Any]:
    inbox: queue.Queue[Any] = queue.Queue()
    sensor.listen(inbox.put)
    return inbox


def settle(world: Any, ticks: int = 15) -> None:
    for _ in range(ticks):
        world.tick()


def test_versions_maps_and_settings(client: Any, world: Any) -> None:
    assert client.get_server_version() == client.get_client_version() == "0.9.16"
    name = world.get_map().name.rsplit("/", 1)[-1]
    assert f"/Game/Carla/Maps/{name}" in client.get_available_maps()
    settings = world.get_settings()
    assert settings.synchronous_mode
    assert settings.fixed_delta_seconds == DELTA_S


def test_ticks_count_up_and_time_goes_with_them(world: Any) -> None:
    before = world.get_snapshot()
    frames = [world.tick() for _ in range(10)]
    after = world.get_snapshot()
    assert frames == list(range(before.frame + 1, before.frame + 11))
    assert after.frame == frames[-1]
    assert after.timestamp.elapsed_seconds - before.timestamp.elapsed_seconds == pytest.approx(10 * DELTA_S)
    assert after.timestamp.delta_seconds == pytest.approx(DELTA_S)


def test_the_library_has_what_scripts_look_for(world: Any) -> None:
    library = world.get_blueprint_library()
    for pattern in ("vehicle.*", "walker.*", "static.prop.*", "sensor.*", "controller.*"):
        assert len(library.filter(pattern)) > 0
    for blueprint in library:
        assert blueprint.id.count(".") == 2
        for attribute in blueprint:
            if attribute.is_modifiable:
                assert len(attribute.recommended_values) > 0
    mustang = library.find("vehicle.ford.mustang")
    assert int(mustang.get_attribute("number_of_wheels")) == 4
    mustang.set_attribute("color", "1,2,3")
    mustang.set_attribute("role_name", "hero")
    car = world.spawn_actor(mustang, world.get_map().get_spawn_points()[0])
    assert car.attributes["role_name"] == "hero"
    assert car.bounding_box.extent.x > 1.5


def test_spawn_drive_and_destroy(world: Any) -> None:
    point = world.get_map().get_spawn_points()[0]
    car = spawn(world, "vehicle.tesla.model3")
    world.tick()
    assert car.get_location().distance(point.location) < 0.005
    assert car.get_transform().rotation.yaw == pytest.approx(point.rotation.yaw, abs=0.005)
    settle(world)
    car.apply_control(carla.VehicleControl(throttle=0.7))
    settle(world, 60)
    ahead = point.get_forward_vector()
    moved = car.get_location() - point.location
    assert moved.x * ahead.x + moved.y * ahead.y > 5.0
    assert car.get_velocity().length() > 4.0
    assert car.get_control().throttle == pytest.approx(0.7)
    assert car.get_control().gear >= 1
    assert car.get_speed_limit() > 0
    assert world.get_actor(car.id).type_id == "vehicle.tesla.model3"
    assert car.destroy()
    world.tick()
    assert not car.is_alive
    assert world.get_actors().find(car.id) is None


def test_spawn_on_a_taken_place(world: Any) -> None:
    spawn(world, "vehicle.audi.tt")
    with pytest.raises(RuntimeError, match="Spawn failed because of collision at spawn position"):
        spawn(world, "vehicle.audi.tt")
    blueprint = world.get_blueprint_library().find("vehicle.audi.tt")
    assert world.try_spawn_actor(blueprint, world.get_map().get_spawn_points()[0]) is None


def test_setters_act(world: Any) -> None:
    car = spawn(world, "vehicle.audi.tt")
    settle(world)
    place = world.get_map().get_spawn_points()[5]
    car.set_transform(place)
    settle(world)
    assert car.get_location().distance(place.location) < 0.6
    ahead = place.get_forward_vector()
    car.set_target_velocity(carla.Vector3D(ahead.x * 8, ahead.y * 8, 0))
    world.tick()
    assert car.get_velocity().length() == pytest.approx(8.0, abs=0.5)
    car.enable_constant_velocity(carla.Vector3D(5, 0, 0))
    settle(world, 40)
    assert car.get_velocity().length() == pytest.approx(5.0, abs=0.01)
    car.disable_constant_velocity()
    car.apply_control(carla.VehicleControl(brake=1.0))
    settle(world, 40)
    assert car.get_velocity().length() == 0.0
    car.add_impulse(carla.Vector3D(ahead.x * 5000, ahead.y * 5000, 0))
    car.apply_control(carla.VehicleControl())
    world.tick()
    assert car.get_velocity().length() > 2.0
    car.set_simulate_physics(False)
    settle(world, 3)
    here = car.get_location()
    settle(world, 5)
    assert car.get_location() == here


def test_physics_control_comes_back_as_stored(world: Any) -> None:
    car = spawn(world, "vehicle.audi.tt")
    control = car.get_physics_control()
    assert len(control.wheels) == 4
    assert control.mass == pytest.approx(1355)
    control.mass = 2000.0
    control.drag_coefficient = 0.0
    wheels = control.wheels
    for wheel in wheels:
        wheel.tire_friction = 0.0
    control.wheels = wheels
    car.apply_physics_control(control)
    settle(world)
    stored = car.get_physics_control()
    assert stored.mass == 2000.0
    assert [wheel.tire_friction for wheel in stored.wheels] == [0.0] * 4
    car.set_target_velocity(carla.Vector3D(10, 0, 0))
    car.apply_control(carla.VehicleControl(brake=1.0))
    settle(world, 20)
    assert car.get_velocity().x == pytest.approx(10.0, abs=1e-4)


def test_lights_of_a_vehicle(world: Any) -> None:
    car = spawn(world, "vehicle.lincoln.mkz_2020")
    car.set_light_state(carla.VehicleLightState(carla.VehicleLightState.Position | carla.VehicleLightState.Brake))
    world.tick()
    assert int(car.get_light_state()) == 1 | 8
    assert int(world.get_vehicles_light_states()[car.id]) == 1 | 8


def test_first_frame_of_every_sensor_and_its_transform(world: Any) -> None:
    car = spawn(world, "vehicle.audi.tt")
    settle(world)
    place = carla.Transform(carla.Location(x=0.4, z=1.8), carla.Rotation(yaw=30.0))
    size = {"image_size_x": 64, "image_size_y": 48}
    sensors = [
        spawn(world, "sensor.camera.rgb", place, car, **size),
        spawn(world, "sensor.other.imu", place, car),
        spawn(world, "sensor.other.gnss", place, car),
    ]
    inboxes = [listen(sensor) for sensor in sensors]
    car.apply_control(carla.VehicleControl(throttle=1.0, steer=0.2))
    for _ in range(20):
        frame = world.tick()
        for sensor, inbox in zip(sensors, inboxes, strict=True):
            measured = inbox.get(timeout=GET_S)
            assert measured.frame == frame
            mine = world.get_snapshot().find(sensor.id).get_transform()
            assert measured.transform.location.distance(mine.location) < 1e-4
            assert measured.transform.rotation.yaw == pytest.approx(mine.rotation.yaw, abs=1e-3)


def test_camera_shows_road_and_sky_and_cars(world: Any) -> None:
    car = spawn(world, "vehicle.audi.tt")
    settle(world)
    camera = spawn(
        world,
        "sensor.camera.rgb",
        carla.Transform(carla.Location(x=1.2, z=1.6)),
        car,
        image_size_x=160,
        image_size_y=96,
    )
    inbox = listen(camera)

    def picture() -> Any:
        world.tick()
        image = inbox.get(timeout=GET_S)
        assert (image.width, image.height, image.fov) == (160, 96, 90.0)
        return np.frombuffer(image.raw_data, np.uint8).reshape(96, 160, 4).copy()

    empty = picture()
    assert empty[..., 3].min() == 255
    sky, road = empty[:20].mean(axis=(0, 1)), empty[-20:].mean(axis=(0, 1))
    assert sky[0] > road[0] + 20
    point = world.get_map().get_spawn_points()[0]
    ahead = point.get_forward_vector()
    in_front = carla.Transform(point.location + carla.Location(ahead.x * 12, ahead.y * 12, 0), point.rotation)
    spawn(world, "vehicle.carlamotors.carlacola", in_front)
    assert (np.abs(picture().astype(int) - empty).max(axis=2) > 25).mean() > 0.02


def test_imu_gnss_and_their_noise(world: Any) -> None:
    car = spawn(world, "vehicle.audi.tt")
    settle(world, 20)
    here = carla.Transform()
    noisy = {"noise_accel_stddev_x": 0.5, "noise_seed": 7}
    imus = [spawn(world, "sensor.other.imu", here, car, **extra) for extra in ({}, noisy, noisy)]
    gnss = spawn(world, "sensor.other.gnss", here, car)
    inboxes = [listen(sensor) for sensor in (*imus, gnss)]
    world.tick()
    still, first, second, place = (inbox.get(timeout=GET_S) for inbox in inboxes)
    assert still.accelerometer.z == pytest.approx(9.81, abs=0.1)
    assert still.accelerometer.x == pytest.approx(0.0, abs=0.1)
    assert first.accelerometer.x == second.accelerometer.x != still.accelerometer.x
    yaw = math.radians(car.get_transform().rotation.yaw)
    assert math.cos(still.compass - (yaw + math.pi / 2)) == pytest.approx(1.0, abs=1e-3)
    expected = world.get_map().transform_to_geolocation(gnss.get_location())
    assert place.latitude == pytest.approx(expected.latitude, abs=1e-9)
    assert place.longitude == pytest.approx(expected.longitude, abs=1e-9)
    car.apply_control(carla.VehicleControl(throttle=1.0))
    settle(world, 10)
    moving = [inboxes[0].get(timeout=GET_S) for _ in range(10)][-1]
    assert moving.accelerometer.x > 2.0


def test_sensor_tick_thins_out_exactly(world: Any) -> None:
    car = spawn(world, "vehicle.audi.tt")
    seen: list[int] = []
    imu = spawn(world, "sensor.other.imu", carla.Transform(), car, sensor_tick=0.2)
    marker = spawn(world, "sensor.other.gnss", carla.Transform(), car)
    imu.listen(lambda measured: seen.append(measured.frame))
    inbox = listen(marker)
    frames = [world.tick() for _ in range(50)]
    for _ in frames:
        inbox.get(timeout=GET_S)
    assert seen == frames[::4]


def test_collision_sensors_of_both_partners_hear_it(world: Any) -> None:
    point = world.get_map().get_spawn_points()[0]
    ahead = point.get_forward_vector()
    hitter = spawn(world, "vehicle.audi.tt")
    in_front = carla.Transform(point.location + carla.Location(ahead.x * 10, ahead.y * 10, 0), point.rotation)
    other = spawn(world, "vehicle.nissan.micra", in_front)
    settle(world)
    sensors = [spawn(world, "sensor.other.collision", carla.Transform(), car) for car in (hitter, other)]
    inboxes = [listen(sensor) for sensor in sensors]
    hitter.set_target_velocity(carla.Vector3D(ahead.x * 12, ahead.y * 12, 0))
    settle(world, 20)
    heard = [inbox.get(timeout=GET_S) for inbox in inboxes]
    assert [(event.actor.id, event.other_actor.id) for event in heard] == [(hitter.id, other.id), (other.id, hitter.id)]
    impulses = [event.normal_impulse for event in heard]
    assert impulses[0].x == pytest.approx(-impulses[1].x)
    assert math.hypot(impulses[0].x, impulses[0].y) > 1000
    assert other.get_velocity().length() > 1.0


def test_lane_invasion_and_walker_controller_are_the_clients_own(world: Any) -> None:
    car = spawn(world, "vehicle.audi.tt")
    sensor = spawn(world, "sensor.other.lane_invasion", carla.Transform(), car)
    inbox = listen(sensor)
    settle(world)
    right = car.get_transform().get_right_vector()
    for _ in range(40):
        car.set_transform(
            carla.Transform(
                car.get_location() + carla.Location(-right.x * 0.2, -right.y * 0.2, 0), car.get_transform().rotation
            )
        )
        world.tick()
    assert inbox.get(timeout=GET_S).crossed_lane_markings


def test_traffic_lights(world: Any) -> None:
    lights = world.get_actors().filter("traffic.traffic_light")
    assert len(lights) > 0
    light = lights[0]
    landmarks = {mark.id for mark in world.get_map().get_all_landmarks_of_type("1000001")}
    assert light.get_opendrive_id() in landmarks
    assert light.id in {member.id for member in light.get_group_traffic_lights()}
    assert len(light.get_light_boxes()) > 0
    assert len(light.get_stop_waypoints()) > 0
    light.set_green_time(3.0)
    light.set_yellow_time(1.5)
    world.tick()
    assert light.get_green_time() == 3.0
    assert light.get_yellow_time() == 1.5
    light.set_state(carla.TrafficLightState.Off)
    light.freeze(True)
    world.tick()
    assert light.state == carla.TrafficLightState.Off
    assert light.is_frozen()
    stop = light.get_stop_waypoints()[0].transform
    stand = carla.Transform(stop.location + carla.Location(z=0.2), stop.rotation)
    car = spawn(world, "vehicle.audi.tt", stand)
    light.set_state(carla.TrafficLightState.Red)
    settle(world, 5)
    assert car.is_at_traffic_light()
    assert car.get_traffic_light().id == light.id
    assert car.get_traffic_light_state() == carla.TrafficLightState.Red


def test_weather_spectator_and_debug_drawing(world: Any) -> None:
    world.set_weather(carla.WeatherParameters.HardRainSunset)
    world.tick()
    assert world.get_weather() == carla.WeatherParameters.HardRainSunset
    spectator = world.get_spectator()
    spectator.set_transform(carla.Transform(carla.Location(1, 2, 30), carla.Rotation(pitch=-90)))
    world.tick()
    assert spectator.get_location() == carla.Location(1, 2, 30)
    world.debug.draw_point(carla.Location(), 0.1, carla.Color(255, 0, 0), 1.0)
    world.debug.draw_string(carla.Location(), "text")
    assert world.tick() > 0


def test_walkers(world: Any) -> None:
    point = world.get_map().get_spawn_points()[3]
    walker = spawn(world, "walker.pedestrian.0003", carla.Transform(point.location + carla.Location(z=1)))
    settle(world, 20)
    walker.apply_control(carla.WalkerControl(direction=carla.Vector3D(1, 0, 0), speed=1.5))
    start = walker.get_location()
    settle(world, 20)
    assert walker.get_location().x - start.x == pytest.approx(1.5, abs=0.1)
    assert walker.get_velocity().x == pytest.approx(1.5, abs=1e-4)
    assert walker.get_control().speed == pytest.approx(1.5)


def test_batch_reports_each_commands_fate(client: Any, world: Any) -> None:
    blueprint = world.get_blueprint_library().find("vehicle.audi.tt")
    points = world.get_map().get_spawn_points()
    go = carla.command.ApplyVehicleControl(carla.command.FutureActor, carla.VehicleControl(throttle=1.0))
    responses = client.apply_batch_sync(
        [
            carla.command.SpawnActor(blueprint, points[0]).then(go),
            carla.command.SpawnActor(blueprint, points[0]),
            carla.command.DestroyActor(987654),
        ],
        True,
    )
    assert [response.has_error() for response in responses] == [False, True, True]
    assert "collision" in responses[1].error
    settle(world, 30)
    car = world.get_actor(responses[0].actor_id)
    assert car.get_velocity().length() > 1.0
    c = carla.command
    applied = client.apply_batch_sync(
        [
            c.ApplyVehicleControl(car, carla.VehicleControl(brake=1.0)),
            c.SetVehicleLightState(car, carla.VehicleLightState.Brake),
            c.ApplyTransform(car, points[4]),
            c.ApplyTargetVelocity(car, carla.Vector3D(0, 0, 0)),
            c.SetSimulatePhysics(car, True),
            c.SetEnableGravity(car, True),
            c.ApplyImpulse(car, carla.Vector3D(1, 1, 0)),
            c.ApplyForce(car, carla.Vector3D(1, 1, 0)),
            c.ApplyTorque(car, carla.Vector3D(0, 0, 1)),
            c.ApplyTargetAngularVelocity(car, carla.Vector3D(0, 0, 0)),
            c.ApplyAngularImpulse(car, carla.Vector3D(0, 0, 1)),
        ],
        True,
    )
    assert [response.error for response in applied] == [""] * 11
    client.apply_batch([c.DestroyActor(car)])
    world.tick()
    assert world.get_actors().find(car.id) is None


def test_reload_starts_afresh_and_ids_go_on(client: Any, world: Any) -> None:
    car = spawn(world, "vehicle.audi.tt")
    settle(world)
    again = client.reload_world(False)
    again.tick()
    assert again.id != world.id
    assert again.get_settings().synchronous_mode
    assert len(again.get_actors().filter("vehicle.*")) == 0
    # the client ticks once by itself when it reloads a synchronous world
    assert again.get_snapshot().timestamp.elapsed_seconds == pytest.approx(2 * DELTA_S)
    assert spawn(again, "vehicle.audi.tt").id > car.id


def test_unknown_map_and_unsupported_calls_are_told_in_words(client: Any, world: Any) -> None:
    with pytest.raises(RuntimeError, match="Map 'Town99' not found"):
        client.load_world("Town99")
    with pytest.raises(RuntimeError, match=r"not supported by the embedded simulator: sensor\.other\.v2x"):
        spawn(world, "sensor.other.v2x", carla.Transform())
    assert world.tick() > 0


def test_maps_from_opendrive_text(client: Any, world: Any, town_maps: Path) -> None:
    text = (town_maps / "Town01.xodr").read_text()
    other = client.generate_opendrive_world(text, carla.OpendriveGenerationParameters(), False)
    other.tick()
    assert "OpenDriveMap" in other.get_map().name
    spawn(other, "vehicle.audi.tt")
    home = client.get_available_maps()[0]
    back = client.load_world(home, False)
    back.tick()
    assert back.get_map().name.rsplit("/", 1)[-1] == home.rsplit("/", 1)[-1]
    with pytest.raises(RuntimeError, match="OpenDRIVE"):
        client.generate_opendrive_world("<html/>", carla.OpendriveGenerationParameters(), False)


def test_asynchronous_mode_runs_by_itself(world: Any) -> None:
    world.apply_settings(carla.WorldSettings(synchronous_mode=False, fixed_delta_seconds=0.02))
    first = world.wait_for_tick(10.0)
    seen: list[Callable[[], Any] | Any] = []
    number = world.on_tick(seen.append)
    last = world.wait_for_tick(10.0)
    while len(seen) < 5:
        last = world.wait_for_tick(10.0)
    world.remove_on_tick(number)
    assert last.frame > first.frame
    assert last.timestamp.delta_seconds == pytest.approx(0.02)
    make_synchronous(world)
    frame = world.tick()
    assert world.get_snapshot().frame == frame


def test_level_objects_and_rays(world: Any) -> None:
    assert isinstance(world.get_level_bbs(carla.CityObjectLabel.TrafficLight), list)
    world.get_environment_objects(carla.CityObjectLabel.Any)
    point = world.get_map().get_spawn_points()[0].location
    hit = world.ground_projection(point + carla.Location(z=5), 20.0)
    assert hit.location.z == pytest.approx(point.z - 0.5, abs=0.1)
    assert len(world.cast_ray(point + carla.Location(z=5), point + carla.Location(z=-5))) == 1
