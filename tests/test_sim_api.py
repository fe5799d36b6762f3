"""The parts of CARLA's Python API that simple scripts seldom use, through the unmodified client.

What is expected is what CARLA's documentation says (python_api.md, bp_library.md, catalogue_vehicles.md of CARLA
0.9.16); each test quotes the sentence that it checks.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from typing import Any

import pytest
from sim_process import carla, connect, make_synchronous, running_sim

from zmqcarla.sim.calls import METHODS


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_sim() as port:
        yield port
        gc.collect()


@pytest.fixture(scope="module")
def client(port: int) -> Any:
    client, world = connect(port)
    make_synchronous(world)
    return client


@pytest.fixture
def world(client: Any) -> Any:
    world = client.reload_world(False)
    world.tick()
    return world


def spawn(world: Any, type_id: str, place: Any = 0, **named: Any) -> Any:
    if isinstance(place, int):
        place = world.get_map().get_spawn_points()[place]
    return world.spawn_actor(world.get_blueprint_library().find(type_id), place, **named)


# ------------------------------------------------------------------------------------------------------- blueprints


def test_the_library_is_that_of_the_documentation(world: Any) -> None:
    """bp_library.md and catalogue_vehicles.md: ids, generation, base type, special type, doors."""
    library = world.get_blueprint_library()
    assert len(library.filter("vehicle.*")) == 41
    assert len(library.filter("walker.pedestrian.*")) >= 49
    for type_id in (
        *("static.prop.bike helmet", "static.prop.brokentile04", "static.prop.busstoplb", "static.prop.foodcart"),
        *("static.prop.haybalelb", "static.prop.motorhelmet", "static.prop.plantpot08", "static.prop.mesh"),
        *("static.trigger.friction", "util.actor.empty", "sensor.other.v2x", "sensor.camera.cosmos_visualization"),
    ):
        assert library.find(type_id).id == type_id

    def attribute(type_id: str, name: str) -> Any:
        return library.find(type_id).get_attribute(name)

    assert attribute("vehicle.tesla.model3", "special_type").as_str() == "electric"
    assert attribute("vehicle.carlamotors.firetruck", "special_type").as_str() == "emergency"
    assert attribute("vehicle.ford.crown", "special_type").as_str() == "taxi"
    assert attribute("vehicle.mitsubishi.fusorosa", "base_type").as_str() == "bus"
    assert attribute("vehicle.tesla.cybertruck", "generation").as_int() == 2
    assert attribute("vehicle.micro.microlino", "generation").as_int() == 1
    assert attribute("vehicle.lincoln.mkz_2020", "has_dynamic_doors").as_bool()
    assert not attribute("vehicle.audi.tt", "has_dynamic_doors").as_bool()
    assert attribute("vehicle.yamaha.yzf", "number_of_wheels").as_int() == 2
    assert not library.find("vehicle.tesla.cybertruck").has_attribute("color")
    assert library.find("vehicle.yamaha.yzf").has_attribute("driver_id")
    # every modifiable attribute can be set to each of its recommended values
    for blueprint in library:
        for entry in blueprint:
            if entry.is_modifiable:
                for value in entry.recommended_values:
                    blueprint.set_attribute(entry.id, value)


# ------------------------------------------------------------------------------------------------------- attachments


def test_a_spring_arm_looks_at_its_parent_and_does_not_pitch(world: Any) -> None:
    """AttachmentType.SpringArmGhost: "an attachment that expands or retracts the position of the actor, depending on
    its parent ... recommended to record videos ... where a smooth movement is needed"."""
    car = spawn(world, "vehicle.audi.tt")
    offset = carla.Transform(carla.Location(x=-5.0, z=2.0), carla.Rotation(pitch=8.0))
    ghost = spawn(
        world, "sensor.camera.rgb", offset, attach_to=car, attachment_type=carla.AttachmentType.SpringArmGhost
    )
    rigid = spawn(world, "sensor.camera.rgb", offset, attach_to=car, attachment_type=carla.AttachmentType.Rigid)
    for _ in range(3):
        world.tick()
    looking_down_deg = math.degrees(math.atan2(2.0, 5.0))
    assert ghost.get_transform().rotation.pitch == pytest.approx(8.0 - looking_down_deg, abs=0.1)
    assert rigid.get_transform().rotation.pitch == pytest.approx(8.0, abs=0.1)
    assert ghost.get_location().distance(rigid.get_location()) < 0.05
    pose = car.get_transform()
    pose.rotation.yaw += 40.0
    car.set_transform(pose)
    world.tick()
    lag = pose.rotation.yaw - ghost.get_transform().rotation.yaw
    assert 5.0 < math.remainder(lag, 360.0) < 39.0
    for camera in (ghost, rigid):
        assert camera.parent.id == car.id
        camera.destroy()


def test_a_missing_parent_is_told(world: Any) -> None:
    car = spawn(world, "vehicle.audi.tt")
    stub = world.get_actor(car.id)
    assert car.destroy()
    with pytest.raises(RuntimeError, match="unable to attach actor: parent actor not found"):
        spawn(world, "sensor.other.imu", carla.Transform(), attach_to=stub)


# ------------------------------------------------------------------------------------------- components and skeletons


def test_components_and_bones_of_a_vehicle(world: Any) -> None:
    """Actor.get_component_world_transform and its relatives, which CARLA 0.9.16 brought."""
    car = spawn(world, "vehicle.audi.tt")
    world.tick()
    assert "front-blinker-r-1" in car.get_component_names()
    relative = car.get_component_relative_transform("front-blinker-r-1")
    seen = car.get_component_world_transform("front-blinker-r-1")
    expected = car.get_transform().transform(relative.location)
    assert seen.location.distance(expected) < 1e-3
    with pytest.raises(RuntimeError, match="Component could not be found in this actor"):
        car.get_component_world_transform("no-such-part")
    names, places = car.get_bone_names(), car.get_bone_world_transforms()
    assert len(names) == len(places) == len(car.get_bone_relative_transforms()) == 5
    wheels = car.get_physics_control().wheels
    for name, wheel in zip(("Wheel_Front_Left", "Wheel_Front_Right"), wheels, strict=False):
        bone = places[names.index(name)].location
        # WheelPhysicsControl.position: "World position of the wheel. This is a read-only parameter."
        assert wheel.position.x / 100 == pytest.approx(bone.x, abs=1e-3)
        assert wheel.position.y / 100 == pytest.approx(bone.y, abs=1e-3)
    assert car.get_socket_names() == []
    with pytest.raises(RuntimeError, match="SkinnedMeshComponent"):
        world.get_spectator().get_bone_names()


def test_the_bones_of_a_pedestrian_can_be_posed(world: Any) -> None:
    """Walker.blend_pose: "0: will show only the animation; 1: will show only the custom pose (set by the user with
    set_bones()); any other: will interpolate". WalkerBoneControlIn: "transform based on the bone parent".
    """
    walker = spawn(world, "walker.pedestrian.0003")
    world.tick()

    def bones() -> dict[str, Any]:
        return {bone.name: bone for bone in walker.get_bones().bone_transforms}

    at_rest = bones()
    head, foot = at_rest["crl_Head__C"], at_rest["crl_foot__L"]
    height = 2 * walker.bounding_box.extent.z
    assert 0.8 * height < head.component.location.z < height
    assert head.world.location.z - foot.world.location.z == pytest.approx(
        head.component.location.z - foot.component.location.z, abs=1e-3
    )
    walker.set_bones(carla.WalkerBoneControlIn([("crl_arm__R", carla.Transform(carla.Location(y=0.5)))]))
    shown = []
    for share in (0.0, 0.5, 1.0):
        walker.blend_pose(share)
        shown.append(bones()["crl_arm__R"].relative.location.y)
    own = at_rest["crl_arm__R"].relative.location.y
    assert shown == pytest.approx([own, (own + 0.5) / 2, 0.5], abs=1e-4)
    moved = bones()["crl_hand__R"].world.location.distance(at_rest["crl_hand__R"].world.location)
    assert moved == pytest.approx(0.5 - own, abs=1e-3)
    walker.get_pose_from_animation()
    assert bones()["crl_arm__R"].relative.location.y == pytest.approx(own, abs=1e-4)
    walker.hide_pose()


# ------------------------------------------------------------------------------------------------------------ vehicles


def test_wheels_are_turned_for_show(world: Any) -> None:
    """Vehicle.set_wheel_steer_direction: "Sets the angle of a vehicle's wheel visually." """
    car = spawn(world, "vehicle.tesla.model3")
    wheel = carla.VehicleWheelLocation.FL_Wheel
    car.set_wheel_steer_direction(wheel, 25.0)
    car.set_wheel_pitch_angle(wheel, 40.0)
    assert car.get_wheel_steer_angle(wheel) == 25.0
    assert car.get_wheel_pitch_angle(wheel) == 40.0
    car.open_door(carla.VehicleDoor.All)
    car.close_door(carla.VehicleDoor.FL)
    car.show_debug_telemetry(True)
    telemetry = car.get_telemetry_data()
    assert len(telemetry.wheels) == 4
    assert telemetry.speed == pytest.approx(0.0, abs=0.05)
    bike = spawn(world, "vehicle.yamaha.yzf", 1)
    assert len(bike.get_physics_control().wheels) == 4


def test_a_friction_trigger_shows_in_the_physics_control(world: Any) -> None:
    """static.trigger.friction: a box in which wheels have another friction."""
    car = spawn(world, "vehicle.audi.tt")
    world.tick()
    blueprint = world.get_blueprint_library().find("static.trigger.friction")
    blueprint.set_attribute("friction", "0.5")
    trigger = world.spawn_actor(blueprint, car.get_transform())
    before = car.get_physics_control().wheels[0].tire_friction
    world.tick()
    world.tick()
    assert car.get_physics_control().wheels[0].tire_friction == pytest.approx(0.5, abs=1e-4)
    trigger.destroy()
    world.tick()
    assert car.get_physics_control().wheels[0].tire_friction == pytest.approx(before)


# ---------------------------------------------------------------------------------------------- lights, weather, lamps


def test_what_a_traffic_light_says_of_itself(world: Any) -> None:
    """TrafficLight.get_affected_lane_waypoints, get_stop_waypoints, get_light_boxes ("bounding boxes encapsulating
    each light box"), get_group_traffic_lights, World.get_traffic_light, get_traffic_lights_in_junction."""
    town = world.get_map()
    for light in list(world.get_actors().filter("traffic.traffic_light"))[:6]:
        stops = light.get_stop_waypoints()
        assert stops
        assert all(not stop.is_junction for stop in stops)
        assert light.get_affected_lane_waypoints()
        for box in light.get_light_boxes():
            assert 1.0 < box.location.z < 8.0
            assert 0.1 < box.extent.z < 1.0
            assert box.location.distance(light.get_location()) < 20.0
        landmark = next(mark for mark in town.get_all_landmarks() if mark.id == light.get_opendrive_id())
        assert world.get_traffic_light(landmark).id == light.id
        assert world.get_traffic_light_from_opendrive_id(light.get_opendrive_id()).id == light.id
        ahead, behind = stops[0].next(10.0)[0], stops[0].previous(20.0)[0]
        group = {member.id for member in light.get_group_traffic_lights()}
        if ahead.is_junction:
            assert {x.id for x in world.get_traffic_lights_in_junction(ahead.junction_id)} == group
            assert light.id in {x.id for x in world.get_traffic_lights_from_waypoint(behind, 50.0)}
    assert list(world.get_actors().filter("traffic.stop"))
    assert list(world.get_actors().filter("traffic.yield"))


def test_street_lamps_obey_scripts_and_the_sun(port: int, world: Any) -> None:
    """LightManager.set_day_night_cycle: "All scene lights have a day-night cycle, automatically turning on and off
    with the altitude of the sun ... setting this to False deactivates it"."""
    manager = world.get_lightmanager()
    lamps = manager.get_all_lights(carla.LightGroup.Street)
    assert len(lamps) > 20
    assert not any(manager.is_active(lamps))
    manager.turn_on(lamps[:3])
    manager.set_color(lamps[:3], carla.Color(255, 0, 0))
    manager.set_intensities(lamps[:3], [100.0, 200.0, 300.0])
    world.tick()

    def seen_by_another() -> dict[int, tuple[bool, int, int, float]]:
        other, its_world = connect(port)  # lamps must not outlive the client that they came from
        its = its_world.get_lightmanager().get_all_lights()
        found = {lamp.id: (lamp.is_on, lamp.color.r, lamp.color.g, lamp.intensity) for lamp in its}
        del its, its_world, other
        return found

    switched = {lamp.id for lamp in lamps[:3]}
    seen = seen_by_another()
    assert {number for number, lamp in seen.items() if lamp[0]} == switched
    assert seen[lamps[1].id] == (True, 255, 0, 200.0)
    world.set_weather(carla.WeatherParameters(sun_altitude_angle=-30.0))
    world.tick()
    assert all(lamp[0] for lamp in seen_by_another().values())
    manager.set_day_night_cycle(False)
    world.set_weather(carla.WeatherParameters(sun_altitude_angle=60.0))
    world.tick()
    assert all(lamp[0] for lamp in seen_by_another().values())


# -------------------------------------------------------------------------------------------------------- surroundings


def test_level_objects_by_label(world: Any) -> None:
    """World.get_environment_objects, get_level_bbs ("can be filtered by semantic tags"), enable_environment_objects."""
    label = carla.CityObjectLabel
    houses = world.get_environment_objects(label.Buildings)
    assert houses
    assert all(house.type == label.Buildings for house in houses)
    assert len({house.id for house in houses}) == len(houses)
    assert len(world.get_level_bbs(label.Buildings)) == len(houses)
    for kind in (label.Vegetation, label.Poles, label.TrafficLight, label.TrafficSigns):
        assert world.get_level_bbs(kind)
    world.enable_environment_objects({house.id for house in houses[:2]}, False)
    before = len(world.get_level_bbs(label.Car))
    car = spawn(world, "vehicle.audi.tt")
    world.tick()
    assert len(world.get_level_bbs(label.Car)) == before + 1
    assert car.bounding_box.extent.x > 1.0


def test_rays_meet_ground_cars_and_houses(world: Any) -> None:
    """World.cast_ray: "detects all geometries intersecting the ray and returns a list of LabelledPoint in order".
    World.ground_projection: "casts a ray ... downwards"; project_point returns None where there is nothing."""
    label = carla.CityObjectLabel
    car = spawn(world, "vehicle.audi.tt")
    world.tick()
    here = car.get_location()
    above, below = here + carla.Location(z=10.0), here + carla.Location(z=-10.0)
    hits = world.cast_ray(above, below)
    assert [hit.label for hit in hits] == [label.Car, label.Roads]
    assert hits[0].location.z > hits[1].location.z
    assert world.ground_projection(above, 20.0).label == label.Car
    assert world.project_point(above, carla.Vector3D(0.0, 0.0, 1.0), 50.0) is None
    house = max(world.get_environment_objects(label.Buildings), key=lambda thing: thing.bounding_box.extent.z)
    middle = house.bounding_box.location
    roof = world.project_point(middle + carla.Location(z=100.0), carla.Vector3D(0.0, 0.0, -2.0), 500.0)
    assert roof.label == label.Buildings
    assert roof.location.z == pytest.approx(middle.z + house.bounding_box.extent.z, abs=0.01)


def test_textures_are_refused_for_objects_that_are_not_there(world: Any) -> None:
    """World.apply_color_texture_to_object; get_names_of_all_objects: "the names of all objects in the scene that can
    be painted"."""
    texture = carla.TextureColor(2, 2)
    with pytest.raises(RuntimeError, match="unable to find Actor to apply the texture"):
        world.apply_color_texture_to_object("no such thing", carla.MaterialParameter.Diffuse, texture)
    name = world.get_names_of_all_objects()[0]
    world.apply_color_texture_to_object(name, carla.MaterialParameter.Diffuse, texture)
    world.apply_float_color_texture_to_objects([name], carla.MaterialParameter.Normal, carla.TextureFloatColor(2, 2))


def test_gravity_of_the_imu(world: Any) -> None:
    """World.set_imui_sensor_gravity: what the accelerometer feels."""
    assert world.get_imui_sensor_gravity() == pytest.approx(9.81, abs=1e-3)
    world.set_imui_sensor_gravity(3.5)
    assert world.get_imui_sensor_gravity() == 3.5
    heard: list[Any] = []
    imu = spawn(world, "sensor.other.imu", carla.Transform(carla.Location(z=50.0)))
    imu.listen(heard.append)
    while not heard:
        world.tick()
    imu.stop()
    assert heard[0].accelerometer.z == pytest.approx(3.5, abs=1e-3)
    imu.destroy()


def test_errors_name_the_call_and_the_actor(client: Any, world: Any) -> None:
    """CARLA answers "Responding error from function <call>: <reason>.  Actor Id: <id>"."""
    walker = spawn(world, "walker.pedestrian.0001")
    gone = 4_000_000
    command = carla.command
    responses = client.apply_batch_sync(
        [
            command.ApplyVehicleControl(gone, carla.VehicleControl()),
            command.ApplyVehicleControl(walker.id, carla.VehicleControl()),
            command.DestroyActor(gone),
            command.SetVehicleLightState(walker.id, carla.VehicleLightState.Brake),
        ]
    )
    where = "Responding error from function apply_control_to_vehicle: "
    assert responses[0].error == where + f"Actor could not be found in the registry.  Actor Id: {gone}"
    assert responses[1].error == where + f"Actor does not match the expected type.  Actor Id: {walker.id}"
    assert responses[2].error == "unable to destroy actor: not found"
    assert responses[3].error.startswith("Responding error from function set_vehicle_light_state: ")
    car = spawn(world, "vehicle.audi.tt", 1)
    stub = world.get_actor(car.id)
    assert car.destroy()
    with pytest.raises(RuntimeError, match="Responding error from function get_physics_control: Actor could not be"):
        stub.get_physics_control()


CLIENT_CALLS = """
add_actor_angular_impulse add_actor_force add_actor_force_at_location add_actor_impulse
add_actor_impulse_at_location add_actor_torque add_traffic_manager_running apply_ackermann_control_to_vehicle
apply_ackermann_controller_settings apply_batch apply_color_texture_to_objects apply_control_to_vehicle
apply_control_to_walker apply_float_color_texture_to_objects apply_physics_control are_gbuffers_enabled
blend_pose cast_ray clear_debug_shape clear_debug_string close_vehicle_door copy_opendrive_to_file destroy_actor
destroy_traffic_manager disable_actor_constant_velocity disable_sensor_for_ros draw_debug_shape
enable_actor_constant_velocity enable_carsim enable_chrono_physics enable_environment_objects enable_gbuffers
enable_sensor_for_ros freeze_all_traffic_lights freeze_traffic_light get_ackermann_controller_settings
get_actor_bone_names get_actor_bone_relative_transforms get_actor_bone_world_transforms get_actor_bounding_box
get_actor_component_names get_actor_component_relative_transform get_actor_component_world_transform
get_actor_definitions get_actor_socket_names get_actor_socket_relative_transforms
get_actor_socket_world_transforms get_actors_by_id get_all_level_BBs get_available_maps get_bones_transform
get_environment_objects get_episode_info get_episode_settings get_gbuffer_token get_group_traffic_lights
get_imui_gravity get_light_boxes get_map_data get_map_info get_names_of_all_objects get_navigation_mesh
get_physics_control get_pose_from_animation get_required_files get_sensor_token get_spectator get_telemetry_data
get_traffic_manager_running get_vehicle_bone_world_transforms get_vehicle_light_state get_vehicle_light_states
get_weather_parameters get_wheel_pitch_angle get_wheel_steer_angle is_sensor_enabled_for_ros
is_traffic_manager_running load_map_layer load_new_episode open_vehicle_door project_point query_lights_state
replay_file request_file reset_all_traffic_lights reset_traffic_light_group restore_physx_physics send
set_actor_autopilot set_actor_collisions set_actor_dead set_actor_enable_gravity set_actor_location
set_actor_simulate_physics set_actor_target_angular_velocity set_actor_target_velocity set_actor_transform
set_annotations_traverse_translucency set_bones_transform set_episode_settings set_ignored_vehicles
set_imui_gravity set_replayer_ignore_hero set_replayer_ignore_spectator set_replayer_time_factor
set_traffic_light_green_time set_traffic_light_red_time set_traffic_light_state set_traffic_light_yellow_time
set_vehicle_light_state set_weather_parameters set_wheel_pitch_angle set_wheel_steer_direction
show_recorder_actors_blocked show_recorder_collisions show_recorder_file_info show_vehicle_debug_telemetry
spawn_actor spawn_actor_with_parent start_recorder stop_recorder stop_replayer tick_cue unload_map_layer
update_day_night_cycle update_lights_state use_carsim_road version
"""


def test_every_call_of_the_client_is_known() -> None:
    """The names of the calls, as the 0.9.16 wheel contains them."""
    assert set(CLIENT_CALLS.split()) <= set(METHODS)
