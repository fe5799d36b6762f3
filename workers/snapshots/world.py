"""The world of an episode: what a snapshot takes of it, and how it is put back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import carla

from zmqcarla.workers.episode import Episode
from zmqcarla.workers.routes import WEATHER_FIELDS
from zmqcarla.workers.session import Session
from zmqcarla.workers.simulator_calls import SimulatorCalls
from zmqcarla.workers.snapshots.bodies import (
    Body,
    Wardrobe,
    birth_commands,
    control_of,
    living,
    place_commands,
    read_bodies,
)
from zmqcarla.workers.snapshots.lights import paint_over, read_lights, write_lights
from zmqcarla.workers.snapshots.reconcile import plan

World = Mapping[str, Any]
"""Of a snapshot: "elapsed_s", "weather", "bodies", "signs" (ids of lights and stop signs), "lights"."""


@dataclass(frozen=True, slots=True)
class Placed:
    """How a world was put back.

    Attributes:
        actor_of: actor id by body id.
        told: ids of the snapshot by ids of this world, where they differ.
        frame: of this world, which shows it.
        ticks: how many it took.
    """

    actor_of: Mapping[int, int]
    told: dict[int, int]
    frame: int
    ticks: int


def read_world(session: Session, episode: Episode, calls: SimulatorCalls | None, wardrobe: Wardrobe) -> dict[str, Any]:
    """Return the world as of the last tick, with the ids that the episode tells of."""
    told = episode.told
    surroundings = session.surroundings
    return {
        "elapsed_s": float(session.world.get_snapshot().timestamp.elapsed_seconds),
        "weather": read_weather(session),
        "bodies": [
            replace(body, body_id=told.get(body.body_id, body.body_id)).to_plain()
            for body in read_bodies(session, living(session), wardrobe)
        ],
        "signs": [told.get(each, each) for each in surroundings.ids],
        "lights": read_lights(session, calls),
    }


def read_weather(session: Session) -> list[float]:
    """Return the weather, in the order of `WEATHER_FIELDS`."""
    with session.answers("get_weather"):
        weather = session.world.get_weather()
    return [float(getattr(weather, name)) for name in WEATHER_FIELDS]


def bodies_of(world: World) -> list[Body]:
    """Return the bodies of a snapshot's world, in order of birth."""
    return [Body.from_plain(plain) for plain in world["bodies"]]


def put_back(
    session: Session,
    episode: Episode,
    world: World,
    state: Mapping[str, Any],
    calls: SimulatorCalls | None,
    wardrobe: Wardrobe,
) -> Placed:
    """Give the actors of this world the states of a snapshot; spawn what is missing, destroy what is too much.

    The ego and its sensors stay. With `calls` no tick is needed. Without, one tick shows the client who is there now;
    then everybody is put in place a second time, so that the world goes on from the snapshot itself.

    Args:
        session: the server.
        episode: whose ego and traffic these are.
        world: of the snapshot.
        state: of the snapshot's episode.
        calls: of the embedded simulator, None for a server without them.
        wardrobe: of the server.
    """
    bodies, ego_id = bodies_of(world), int(episode.vehicle.id)
    actor_of, born = _gather(session, episode, bodies, int(state["ego_id"]), wardrobe)
    episode.traffic.set_state(_translated(state["traffic"], actor_of), born)
    places = [(actor_of[body.body_id], body) for body in bodies if body.body_id in actor_of]
    if read_weather(session) != world["weather"]:
        values = dict(zip(WEATHER_FIELDS, world["weather"], strict=True))
        session.world.set_weather(carla.WeatherParameters(**values))
    commands = place_commands(places)
    session.batch(commands)
    # A client does not send a control that is the last one that it has sent itself, and knows nothing of the batch.
    ego = next(body for actor_id, body in places if actor_id == ego_id)
    episode.vehicle.apply_control(control_of(ego))
    write_lights(session, world["lights"], calls)
    if calls is not None:
        frame = _publish(session, world, calls)
    else:
        frame = session.tick()
        episode.sensors_read(frame)
        session.batch(commands)
        write_lights(session, world["lights"], None)
    episode.traffic.begin()
    signs = zip(session.surroundings.ids, world["signs"], strict=True)
    told = {actor: body for body, actor in actor_of.items()} | dict(signs) | {ego_id: int(state["ego_id"])}
    told = {now: then for now, then in told.items() if now != then}
    return Placed(actor_of, told, frame, 0 if calls is not None else 1)


def found_again(
    session: Session, episode: Episode, world: World, state: Mapping[str, Any], ticks: int, wardrobe: Wardrobe
) -> Placed:
    """Return which actors of an episode that was driven once more are the bodies of a snapshot: born in their order."""
    ego_id = int(episode.vehicle.id)
    actors = living(session)
    wanted = bodies_of(world)
    looks = {actor_id: wardrobe.look_of(actor) for actor_id, actor in actors.items()}
    actor_of = {int(state["ego_id"]): ego_id}
    rest = iter([(actor_id, look) for actor_id, look in looks.items() if actor_id != ego_id])
    for body in wanted:
        if body.body_id == int(state["ego_id"]):
            continue
        found = next((actor_id for actor_id, look in rest if look == body.look), None)
        if found is None:
            break
        actor_of[body.body_id] = found
    return Placed(actor_of, {}, int(session.world.get_snapshot().frame), ticks)


def _gather(
    session: Session, episode: Episode, bodies: list[Body], ego_body_id: int, wardrobe: Wardrobe
) -> tuple[dict[int, int], set[int]]:
    """Return the actor id of each body, and the ids of those that were just born."""
    ego_id = int(episode.vehicle.id)
    looks = {actor_id: wardrobe.look_of(actor) for actor_id, actor in living(session).items() if actor_id != ego_id}
    known = {then: now for now, then in episode.told.items()}
    planned = plan(bodies, looks, known, (ego_body_id, ego_id))
    episode.traffic.release_walkers()
    session.destroy(planned.extra)
    births = session.batch(birth_commands(planned.missing, wardrobe))
    new = {
        body.body_id: actor_id for body, actor_id in zip(planned.missing, births, strict=True) if actor_id is not None
    }
    return {**planned.kept, **new}, set(new.values())


def _translated(traffic: Mapping[str, Any], actor_of: Mapping[int, int]) -> dict[str, Any]:
    owned = {
        name: [actor_of[each] for each in traffic[name] if each in actor_of]
        for name in ("vehicles", "parked", "walkers")
    }
    walks = [[actor_of[each], *rest] for each, *rest in traffic["walks"] if each in actor_of]
    return {**traffic, **owned, "walks": walks}


def _publish(session: Session, world: World, calls: SimulatorCalls) -> int:
    frame = calls.publish_state(world["elapsed_s"])
    session.wait_for_frame(frame)
    if paint_over(session, world["lights"]):
        frame = calls.publish_state(world["elapsed_s"])
        session.wait_for_frame(frame)
    return frame
