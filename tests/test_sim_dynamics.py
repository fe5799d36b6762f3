"""The motion model against what physics says about it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zmqcarla.sim.blueprints import LIBRARY, Blueprint
from zmqcarla.sim.collisions import Body, Rectangle, near_pairs, overlap, resolve, touching
from zmqcarla.sim.dynamics import SCALAR, VECTOR, Inputs, Pedals, State, advance, gear_of, inputs_of
from zmqcarla.sim.vehicle_physics import GRAVITY_MPS2, Model, default_control

CAR = LIBRARY["vehicle.lincoln.mkz_2020"]
DELTA_S = 0.05


def model_of(blueprint: Blueprint = CAR) -> Model:
    return Model.compile(default_control(blueprint), blueprint)


def drive(state: State, pedals: Pedals, ticks: int, model: Model | None = None, pitch: float = 0.0) -> State:
    model = model or model_of()
    for _ in range(ticks):
        ahead = math.cos(state[2]) * state[3] + math.sin(state[2]) * state[4]
        u = inputs_of(SCALAR, model, pedals, gear_of(SCALAR, model, pedals, ahead), ahead, True, pitch)
        state = advance(SCALAR, u, state, DELTA_S)
    return state


def pedals(throttle: float = 0.0, steer: float = 0.0, brake: float = 0.0, reverse: bool = False) -> Pedals:
    return Pedals(throttle, steer, brake, False, reverse, False, 0)


REST: State = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_full_throttle_reaches_100_kmh_in_a_plausible_time_and_straight_ahead() -> None:
    five_s = drive(REST, pedals(throttle=1.0), 100)
    ten_s = drive(five_s, pedals(throttle=1.0), 100)
    assert 50 < five_s[3] * 3.6 < 100 < ten_s[3] * 3.6 < 150
    assert ten_s[1] == ten_s[2] == ten_s[4] == 0.0


def test_full_brake_stops_within_the_grip_and_exactly() -> None:
    stopped = drive((0.0, 0.0, 0.0, 20.0, 0.0, 0.0), pedals(brake=1.0), 80)
    assert stopped[3] == stopped[4] == stopped[5] == 0.0
    shortest = 20.0**2 / (2 * GRAVITY_MPS2)
    assert shortest * 0.95 < stopped[0] < shortest * 1.3


def test_reverse_gear_drives_backwards() -> None:
    state = drive(REST, pedals(throttle=0.5, reverse=True), 40)
    assert state[3] < -1.0


def test_slow_circle_has_the_radius_of_the_steering_geometry() -> None:
    model = model_of()
    state = drive((0.0, 0.0, 0.0, 1.5, 0.0, 0.0), pedals(throttle=0.05, steer=0.5), 60)
    speed = math.hypot(state[3], state[4])
    base = model.front_m + model.rear_m
    steer = model.steer_row[0] * 0.5
    radius = math.hypot(base / math.tan(steer), model.rear_m)
    assert speed / state[5] == pytest.approx(radius, rel=0.1)
    assert state[5] > 0  # positive steering turns right, which is positive yaw


def test_fast_corner_is_limited_by_the_tyres() -> None:
    # entering a turn far too fast: the sideways acceleration stays within the grip
    state: State = (0.0, 0.0, 0.0, 30.0, 0.0, 0.0)
    model = model_of()
    for _ in range(40):
        before = state
        state = drive(state, pedals(throttle=0.3, steer=0.6), 1)
        change = math.hypot(state[3] - before[3], state[4] - before[4]) / DELTA_S
        assert change < model.grip_mps2 * 1.25
    assert abs(state[5]) < 1.5


def test_gentle_corner_at_speed_understeers_but_follows() -> None:
    model = model_of()
    state = drive((0.0, 0.0, 0.0, 15.0, 0.0, 0.0), pedals(throttle=0.12, steer=0.05), 60)
    speed = math.hypot(state[3], state[4])
    rolled = speed * math.tan(model.steer_row[int(speed * 2)] * 0.05) / (model.front_m + model.rear_m)
    assert 0.6 * rolled < state[5] < rolled


def test_without_friction_and_drag_only_inertia_is_left() -> None:
    control = default_control(CAR)
    control[12] = 0.0
    for wheel in control[15]:
        wheel[0] = 0.0
    model = Model.compile(control, CAR)
    state = drive((0.0, 0.0, 0.3, 12.0, -3.0, 0.2), pedals(throttle=1.0, steer=1.0, brake=1.0), 100, model)
    assert state[3:] == pytest.approx((12.0, -3.0, 0.2), abs=1e-9)


def test_a_steep_slope_moves_what_stands_free_and_the_brake_holds_it() -> None:
    steep = math.radians(8)
    assert drive(REST, pedals(), 40, pitch=steep)[3] < -0.5
    assert drive(REST, pedals(brake=1.0), 40, pitch=steep)[3] == 0.0


def test_every_vehicle_moves_turns_and_stops() -> None:
    for entry in LIBRARY.wire(1):
        if not entry[1].startswith("vehicle."):
            continue
        model = model_of(LIBRARY[entry[1]])
        state = drive(REST, pedals(throttle=0.8, steer=0.3), 100, model)
        assert math.hypot(state[3], state[4]) > 2.0, entry[1]
        assert abs(state[2]) > 0.3, entry[1]
        state = drive(state, pedals(brake=1.0), 100, model)
        assert state[3:] == (0.0, 0.0, 0.0), entry[1]


def test_many_vehicles_as_arrays_move_like_each_alone() -> None:
    chance = np.random.default_rng(3)
    model, inputs, states = model_of(), [], list[State]()
    for _ in range(20):
        numbers = chance.uniform(-1, 1, 8).tolist()
        control = pedals(abs(numbers[0]), numbers[1], max(numbers[2], 0.0))
        states.append((numbers[3] * 50, 0.0, numbers[4] * 3, numbers[5] * 20, numbers[6] * 20, numbers[7]))
        inputs.append(inputs_of(SCALAR, model, control, 2, 10.0, True, 0.02))
    stacked = Inputs(*(np.array([getattr(u, name) for u in inputs]) for name in Inputs.__slots__))
    columns = tuple(np.array(states).T.copy())
    together = list(zip(*advance(VECTOR, stacked, columns, DELTA_S), strict=True))
    for u, state, moved in zip(inputs, states, together, strict=True):
        assert advance(SCALAR, u, state, DELTA_S) == pytest.approx(moved, abs=1e-9)


def square(x: float, y: float, yaw: float = 0.0, half: float = 1.0) -> Rectangle:
    return Rectangle(x, y, math.cos(yaw), math.sin(yaw), half, half)


def test_rectangles_overlap_as_drawn() -> None:
    found = overlap(square(0, 0), square(1.8, 0.1))
    assert found is not None
    assert found.depth_m == pytest.approx(0.2)
    assert (found.normal_x, found.normal_y) == (1.0, 0.0)
    assert overlap(square(0, 0), square(2.1, 0)) is None
    # corners that circles would call touching
    assert overlap(square(0, 0), square(2.2, 2.2, math.pi / 4)) is None
    assert overlap(square(0, 0), square(2.2, 0, math.pi / 4)) is not None


def body(rectangle: Rectangle, vx: float, mass: float) -> Body:
    inverse = 1 / mass if mass else 0.0
    return Body(rectangle, 0.0, 1.0, vx, 0.0, 0.0, inverse, inverse * 3)


def test_a_head_on_hit_keeps_momentum_and_loses_energy() -> None:
    a, b = body(square(0, 0), 10.0, 1000.0), body(square(1.9, 0), -4.0, 3000.0)
    (hit,) = resolve([a, b], [(0, 1)])
    assert 1000 * a.vx + 3000 * b.vx == pytest.approx(1000 * 10 - 3000 * 4)
    assert a.vx < b.vx
    assert 1000 * a.vx**2 + 3000 * b.vx**2 < 1000 * 100 + 3000 * 16
    assert hit.impulse_x == pytest.approx(1000 * (a.vx - 10))
    assert overlap(a.rectangle, b.rectangle) is None


def test_an_off_centre_hit_spins_and_a_wall_does_not_move() -> None:
    car, wall = body(square(0, 0), 10.0, 1000.0), body(square(1.9, 1.2), 0.0, 0.0)
    resolve([car, wall], [(0, 1)])
    assert car.rate != 0.0
    assert (wall.vx, wall.vy, wall.rate) == (0.0, 0.0, 0.0)
    assert wall.rectangle == square(1.9, 1.2)


def test_bodies_at_different_heights_pass() -> None:
    low, high = body(square(0, 0), 10.0, 1000.0), body(square(1, 0), 0.0, 1000.0)
    high.low_m, high.high_m = 5.0, 6.0
    assert resolve([low, high], [(0, 1)]) == []


def test_near_pairs_finds_what_brute_force_finds() -> None:
    chance = np.random.default_rng(1)
    places, radii = chance.uniform(0, 60, (40, 2)), chance.uniform(0.5, 4, 40)
    wanted = [
        [i, j] for i in range(40) for j in range(i + 1, 40) if math.dist(places[i], places[j]) < radii[i] + radii[j]
    ]
    assert near_pairs(places, radii).tolist() == wanted
    assert len(near_pairs(places[:1], radii[:1])) == 0


def test_many_rectangles_touch_like_each_pair_alone() -> None:
    chance = np.random.default_rng(2)
    yaw = chance.uniform(-3, 3, 30)
    boxes = np.stack([*chance.uniform(0, 12, (2, 30)), np.cos(yaw), np.sin(yaw), *chance.uniform(0.2, 3, (2, 30))])
    pairs = np.array([(i, j) for i in range(30) for j in range(i + 1, 30)])
    wanted = [
        [i, j] for i, j in pairs.tolist() if overlap(Rectangle(*boxes[:, i]), Rectangle(*boxes[:, j])) is not None
    ]
    assert 20 < len(wanted) < 400
    assert touching(boxes, np.zeros((2, 30)), pairs).tolist() == wanted
