"""The parts of actors that scripts ask for by name: components, bones and where they are.

CARLA's come from its meshes. Here a vehicle has its mesh, four blinkers at the corners of its box, and the five bones
that CARLA asks of every vehicle's skeleton; a pedestrian has its mesh and the bones of skeleton.py.
"""

from zmqcarla.sim import skeleton
from zmqcarla.sim.actors import Actor, Vehicle, Walker
from zmqcarla.sim.geometry import Pose

ORIGIN: Pose = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
_WHEELS = ("Wheel_Front_Left", "Wheel_Front_Right", "Wheel_Rear_Left", "Wheel_Rear_Right")
_BLINKER_SHARE = 0.9  # of the half width


def components(actor: Actor) -> dict[str, Pose]:
    """Poses on the actor of its components."""
    match actor:
        case Vehicle():
            x, y, z = actor.shape.extent_m
            return {"VehicleMesh": ORIGIN} | {
                f"{end}-blinker-{side}-1": (along * x, across * _BLINKER_SHARE * y, z, 0.0, 0.0, 0.0)
                for end, along in (("front", 1.0), ("back", -1.0))
                for side, across in (("l", -1.0), ("r", 1.0))
            }
        case Walker():
            return {"CharacterMesh0": (0.0, 0.0, -actor.shape.extent_m[2], 0.0, 0.0, 0.0)}
        case _:
            return {"DefaultSceneRoot": ORIGIN}


def wheels(vehicle: Vehicle) -> list[Pose]:
    """Poses on the vehicle of the middles of its wheels; those in front are turned as they steer by hand."""
    return [
        (wheel[9][0] / 100, wheel[9][1] / 100, wheel[9][2] / 100, 0.0, vehicle.wheel_deg.get(index, 0.0), 0.0)
        for index, wheel in enumerate(vehicle.control[15])
    ]


def relative_bones(actor: Walker) -> dict[str, Pose]:
    """Poses of a pedestrian's bones, each on its parent."""
    return skeleton.blended(skeleton.rest(2 * actor.shape.extent_m[2]), actor.bones, actor.blend)


def bones(actor: Actor) -> dict[str, Pose]:
    """Poses on the actor of its bones; none for an actor without a skeleton."""
    match actor:
        case Vehicle():
            return {"Vehicle_Base": ORIGIN} | dict(zip(_WHEELS, wheels(actor), strict=False))
        case Walker():
            feet = components(actor)["CharacterMesh0"]
            return skeleton.chained(relative_bones(actor), feet)
        case _:
            return {}
