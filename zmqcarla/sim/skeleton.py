"""The bones of a pedestrian: CARLA's names, standing upright with the arms down.

Every bone's axes are those of the pedestrian (x ahead, y right, z up), so a bone's pose on its parent is an offset. The
proportions are those of an adult drawn eight heads tall; they are scaled to the height of the actor. A script may lay
its own pose over this one, bone by bone, and blend between both.
"""

from collections.abc import Mapping

from zmqcarla.sim.geometry import Pose, compose

# bone, its parent, place in a person of height 1 standing at the origin: ahead, right, up
_MIDDLE = """
crl_root            -                   0.00  0.00  0.00
crl_hips__C         crl_root            0.00  0.00  0.53
crl_spine__C        crl_hips__C         0.00  0.00  0.58
crl_spine01__C      crl_spine__C        0.00  0.00  0.68
crl_neck__C         crl_spine01__C      0.00  0.00  0.83
crl_Head__C         crl_neck__C         0.01  0.00  0.88
"""
# the same for the right side; the left is its mirror image
_SIDE = """
crl_eye             crl_Head__C         0.05  0.02  0.94
crl_shoulder        crl_spine01__C      0.00  0.04  0.81
crl_arm             crl_shoulder        0.00  0.11  0.81
crl_foreArm         crl_arm             0.00  0.13  0.63
crl_hand            crl_foreArm         0.01  0.14  0.47
crl_thigh           crl_hips__C         0.00  0.05  0.51
crl_leg             crl_thigh           0.00  0.05  0.28
crl_foot            crl_leg            -0.01  0.05  0.05
crl_toe             crl_foot            0.07  0.05  0.01
crl_toeEnd          crl_toe             0.11  0.05  0.01
"""
# finger: where it begins, seen from the hand
_FINGERS = {
    "Thumb": (0.020, -0.010, -0.020),
    "Index": (0.020, 0.000, -0.050),
    "Middle": (0.008, 0.000, -0.052),
    "Ring": (-0.004, 0.000, -0.050),
    "Pinky": (-0.015, 0.000, -0.046),
}
_JOINT_UP = -0.015
_UPRIGHT = (0.0, 0.0, 0.0)


def _bones() -> dict[str, tuple[str, tuple[float, float, float]]]:
    """By bone: its parent and its offset from it, in heights."""
    places: dict[str, tuple[str, tuple[float, float, float]]] = {}

    def add(name: str, parent: str, place: tuple[float, float, float]) -> None:
        places[name] = parent, place

    for line in filter(None, _MIDDLE.split("\n")):
        name, parent, x, y, z = line.split()
        add(name, "" if parent == "-" else parent, (float(x), float(y), float(z)))
    for side, mirror in (("__R", 1.0), ("__L", -1.0)):
        for line in filter(None, _SIDE.split("\n")):
            name, parent, x, y, z = line.split()
            above = parent if parent.endswith("__C") else parent + side
            add(name + side, above, (float(x), float(y) * mirror, float(z)))
        hand = places["crl_hand" + side][1]
        for finger, (ahead, aside, up) in _FINGERS.items():
            above = "crl_hand" + side
            for joint, suffix in enumerate(("", "01", "02", "End")):
                name = f"crl_hand{finger}{suffix}{side}"
                add(name, above, (hand[0] + ahead, hand[1] + aside * mirror, hand[2] + up + joint * _JOINT_UP))
                above = name
    offsets: dict[str, tuple[str, tuple[float, float, float]]] = {}
    for name, (parent, at) in places.items():
        origin = places[parent][1] if parent else (0.0, 0.0, 0.0)
        offsets[name] = parent, (at[0] - origin[0], at[1] - origin[1], at[2] - origin[2])
    return offsets


_BONES = _bones()
BONE_NAMES = tuple(_BONES)


def rest(height_m: float) -> dict[str, Pose]:
    """Each bone's pose on its parent, parents first, of a person who stands."""
    return {name: (x * height_m, y * height_m, z * height_m, *_UPRIGHT) for name, (_, (x, y, z)) in _BONES.items()}


def blended(relative: Mapping[str, Pose], custom: Mapping[str, Pose], share: float) -> dict[str, Pose]:
    """Poses on the parents with a share (0 to 1) of a script's own poses; the interpolation is linear."""
    poses = dict(relative)
    for name in custom.keys() & poses.keys():
        own, theirs = poses[name], custom[name]
        x, y, z, pitch, yaw, roll = (a + (b - a) * share for a, b in zip(own, theirs, strict=True))
        poses[name] = (x, y, z, pitch, yaw, roll)
    return poses


def chained(relative: Mapping[str, Pose], root: Pose) -> dict[str, Pose]:
    """Each bone's pose in the frame in which the person stands at ``root``."""
    poses: dict[str, Pose] = {}
    for name, (parent, _) in _BONES.items():
        poses[name] = compose(poses[parent] if parent else root, relative[name])
    return poses
