"""The blueprint library: which actor types exist, their attributes and sizes.

Ids are those of CARLA 0.9.16, so that scripts find the models they name. Sizes are those of the models, rounded to
the centimetre; masses are plausible for the class of vehicle, not measured on CARLA.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class AttributeType(IntEnum):
    """carla.ActorAttributeType."""

    BOOL = 1
    INT = 2
    FLOAT = 3
    STRING = 4
    RGB = 5


class Label(IntEnum):
    """Semantic tags (carla.CityObjectLabel)."""

    NONE = 0
    ROADS = 1
    SIDEWALKS = 2
    BUILDING = 3
    WALLS = 4
    FENCES = 5
    POLE = 6
    TRAFFIC_LIGHT = 7
    TRAFFIC_SIGN = 8
    VEGETATION = 9
    TERRAIN = 10
    SKY = 11
    PEDESTRIAN = 12
    RIDER = 13
    CAR = 14
    TRUCK = 15
    BUS = 16
    TRAIN = 17
    MOTORCYCLE = 18
    BICYCLE = 19
    STATIC = 20
    DYNAMIC = 21
    OTHER = 22
    WATER = 23
    ROAD_LINES = 24
    GROUND = 25
    BRIDGE = 26
    RAIL_TRACK = 27
    GUARD_RAIL = 28


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a blueprint; a modifiable one lists at least one recommended value, a sane default first."""

    id: str
    type: AttributeType
    recommended: tuple[str, ...]
    modifiable: bool = True
    restricted: bool = False

    def wire(self, first_type: int) -> list[Any]:
        """The attribute as the client expects it; `first_type` is the number of BOOL in its release."""
        return [
            self.id,
            self.type - AttributeType.BOOL + first_type,
            self.recommended[0],
            list(self.recommended),
            self.modifiable,
            self.restricted,
        ]


@dataclass(frozen=True, slots=True)
class Shape:
    """Bounding box of an actor in its own frame: half sizes and centre, m."""

    extent_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    centre_m: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """One actor type."""

    uid: int
    type_id: str
    attributes: tuple[Attribute, ...]
    shape: Shape
    label: Label
    mass_kg: float
    solid: bool

    def wire(self, first_type: int) -> list[Any]:
        """ActorDefinition of the client's blueprint library."""
        tags = ",".join(self.type_id.split("."))
        return [self.uid, self.type_id, tags, [attribute.wire(first_type) for attribute in self.attributes]]

    def defaults(self) -> list[list[Any]]:
        """Attribute values of an actor that the simulator itself spawns."""
        return [[a.id, int(a.type), a.recommended[0]] for a in self.attributes]


def _fixed(name: str, kind: AttributeType, value: str) -> Attribute:
    return Attribute(name, kind, (value,), modifiable=False)


def _free(name: str, kind: AttributeType, *recommended: str) -> Attribute:
    return Attribute(name, kind, recommended)


# type id: length, width, height (m), mass (kg), base type, special type, generation, lights
_CARS = """
vehicle.audi.a2                     3.71 1.79 1.55  1215 car -          1 n
vehicle.audi.etron                   4.86 2.03 1.65  2490 car electric   1 n
vehicle.audi.tt                     4.18 1.99 1.39  1355 car -          1 y
vehicle.bh.crossbike                1.49 0.86 1.08    90 bicycle -      1 n
vehicle.bmw.grandtourer             4.61 2.24 1.67  1545 car -          1 n
vehicle.carlamotors.carlacola       5.20 2.61 2.47  5200 truck -        1 n
vehicle.carlamotors.european_hgv    7.94 2.89 3.53  9500 truck -        2 y
vehicle.carlamotors.firetruck       8.47 2.89 3.83 12500 truck emergency 2 y
vehicle.chevrolet.impala            5.36 2.03 1.41  1690 car -          1 y
vehicle.citroen.c3                  3.99 1.85 1.62  1140 car -          1 n
vehicle.diamondback.century         1.64 0.37 1.03    90 bicycle -      1 n
vehicle.dodge.charger_2020          5.01 2.10 1.53  1920 car -          2 y
vehicle.dodge.charger_police        4.97 2.04 1.55  1980 car emergency  1 y
vehicle.dodge.charger_police_2020   5.24 2.10 1.64  1980 car emergency  2 y
vehicle.ford.ambulance              6.36 2.35 2.43  4500 van emergency  2 y
vehicle.ford.crown                  5.37 1.80 1.57  1875 car taxi       2 y
vehicle.ford.mustang                4.72 1.89 1.30  1490 car -          1 y
vehicle.gazelle.omafiets            1.84 0.43 1.17    95 bicycle -      1 n
vehicle.harley-davidson.low_rider   2.35 0.76 1.28   370 motorcycle -   1 y
vehicle.jeep.wrangler_rubicon       3.87 1.91 1.89  1880 car -          1 y
vehicle.kawasaki.ninja              2.04 0.80 1.15   275 motorcycle -   1 y
vehicle.lincoln.mkz_2017            4.90 2.13 1.51  1720 car -          1 y
vehicle.lincoln.mkz_2020            4.89 1.84 1.49  1720 car -          2 y
vehicle.mercedes.coupe              5.03 2.15 1.64  1840 car -          1 y
vehicle.mercedes.coupe_2020         4.67 2.00 1.44  1790 car -          2 y
vehicle.mercedes.sprinter           5.92 1.99 2.56  2500 van -          2 y
vehicle.micro.microlino              2.21 1.48 1.38   615 car electric   1 y
vehicle.mini.cooper_s               3.81 1.97 1.48  1260 car -          1 n
vehicle.mini.cooper_s_2021          4.55 2.10 1.77  1330 car -          2 y
vehicle.mitsubishi.fusorosa        10.27 3.94 4.25  7500 bus -          2 y
vehicle.nissan.micra                3.63 1.85 1.53  1035 car -          1 n
vehicle.nissan.patrol               4.60 1.93 1.85  2200 car -          1 n
vehicle.nissan.patrol_2021          5.57 2.15 2.05  2700 car -          2 y
vehicle.seat.leon                   4.19 1.82 1.47  1280 car -          1 n
vehicle.tesla.cybertruck             6.27 2.39 2.10  3000 truck electric   2 n
vehicle.tesla.model3                 4.79 2.16 1.49  1845 car electric   1 y
vehicle.toyota.prius                 4.51 2.01 1.52  1400 car electric   1 n
vehicle.vespa.zx125                 1.81 0.86 1.24   210 motorcycle -   1 y
vehicle.volkswagen.t2               4.48 2.07 2.04  1450 van -          1 y
vehicle.volkswagen.t2_2021          4.44 1.78 1.99  1500 van -          2 y
vehicle.yamaha.yzf                  2.19 0.87 1.53   280 motorcycle -   1 y
"""
# those whose doors CARLA can open
_DOORS = frozenset(
    {
        "vehicle.dodge.charger_2020",
        "vehicle.dodge.charger_police_2020",
        "vehicle.ford.crown",
        "vehicle.lincoln.mkz_2020",
        "vehicle.mercedes.coupe_2020",
        "vehicle.mini.cooper_s_2021",
        "vehicle.nissan.patrol_2021",
        "vehicle.carlamotors.firetruck",
        "vehicle.ford.ambulance",
        "vehicle.mercedes.sprinter",
        "vehicle.volkswagen.t2_2021",
    }
)
_LABELS = {
    "car": Label.CAR,
    "van": Label.CAR,
    "truck": Label.TRUCK,
    "bus": Label.BUS,
    "motorcycle": Label.MOTORCYCLE,
    "bicycle": Label.BICYCLE,
}
_COLOURS = ("17,37,103", "180,44,44", "65,63,63", "255,255,255", "158,186,51", "0,0,0")

# name: length, width, height (m); mass in kg, 0: not solid (cars drive over it)
_PROPS = """
advertisement 1.20 0.30 2.60 120
atm 0.90 0.80 2.00 300
barbeque 1.00 0.60 1.10 40
barrel 0.60 0.60 0.90 60
bench01 1.60 0.60 0.90 60
bench02 1.60 0.60 0.90 60
bench03 1.60 0.60 0.90 60
bike helmet 0.30 0.25 0.20 0
bikeparking 0.60 1.00 0.90 80
bin 0.50 0.50 1.00 25
box01 0.60 0.60 0.60 10
box02 0.60 0.60 0.60 10
box03 0.60 0.60 0.60 10
briefcase 0.45 0.15 0.35 4
brokentile01 0.30 0.30 0.03 0
brokentile02 0.30 0.30 0.03 0
brokentile03 0.30 0.30 0.03 0
brokentile04 0.30 0.30 0.03 0
busstop 2.40 1.50 2.60 500
busstoplb 2.40 1.50 2.60 500
calibrator 0.60 0.60 1.00 20
chainbarrier 1.50 0.20 0.90 40
chainbarrierend 0.20 0.20 0.90 20
clothcontainer 1.20 1.20 1.80 150
clothesline 2.00 0.50 1.80 20
colacan 0.07 0.07 0.12 0
constructioncone 0.36 0.36 0.75 5
container 6.00 2.50 2.60 2200
creasedbox01 0.50 0.50 0.40 0
creasedbox02 0.50 0.50 0.40 0
creasedbox03 0.50 0.50 0.40 0
dirtdebris01 1.20 1.00 0.10 0
dirtdebris02 1.20 1.00 0.10 0
dirtdebris03 1.20 1.00 0.10 0
doghouse 1.00 0.80 0.90 30
foodcart 2.00 1.20 2.20 250
fountain 3.00 3.00 2.00 5000
garbage01 0.50 0.50 0.20 0
garbage02 0.50 0.50 0.20 0
garbage03 0.50 0.50 0.20 0
garbage04 0.50 0.50 0.20 0
garbage05 0.50 0.50 0.20 0
garbage06 0.50 0.50 0.20 0
gardenlamp 0.20 0.20 0.60 5
glasscontainer 1.30 1.30 1.70 200
gnome 0.30 0.30 0.60 5
guitarcase 1.10 0.40 0.20 5
haybale 1.20 1.20 1.20 200
haybalelb 1.20 1.20 1.20 200
ironplank 2.00 1.00 0.03 0
kiosk_01 2.20 2.20 3.00 900
mailbox 0.50 0.50 1.30 40
maptable 1.20 0.60 1.20 40
mesh 1.00 1.00 1.00 10
mobile 0.15 0.08 0.02 0
motorhelmet 0.30 0.25 0.25 0
omafiets 1.80 0.50 1.10 20
pergola 3.00 3.00 2.60 300
plasticbag 0.40 0.40 0.40 0
plasticchair 0.60 0.60 0.85 4
plastictable 1.00 1.00 0.75 10
plantpot01 0.50 0.50 0.80 30
plantpot02 0.50 0.50 0.80 30
plantpot03 0.50 0.50 0.80 30
plantpot04 0.50 0.50 0.80 30
plantpot05 0.50 0.50 0.80 30
plantpot06 0.50 0.50 0.80 30
plantpot07 0.50 0.50 0.80 30
plantpot08 0.50 0.50 0.80 30
platformgarbage01 1.20 0.80 0.50 0
purse 0.30 0.15 0.25 0
shop01 2.50 2.00 2.80 600
shoppingbag 0.40 0.20 0.40 0
shoppingcart 0.90 0.55 1.00 20
shoppingtrolley 0.40 0.40 1.00 8
slide 2.50 0.60 2.00 80
streetbarrier 1.20 0.50 1.10 30
streetfountain 0.50 0.50 1.10 80
streetsign 0.60 0.10 2.20 20
streetsign01 0.60 0.10 2.20 20
streetsign04 0.60 0.10 2.20 20
swing 3.00 1.50 2.40 100
swingcouch 1.80 1.10 1.80 60
table 1.20 0.80 0.75 20
trafficcone01 0.40 0.40 0.70 5
trafficcone02 0.40 0.40 0.70 5
trafficwarning 2.20 1.60 2.60 500
trampoline 3.00 3.00 0.90 60
trashbag 0.50 0.50 0.50 6
trashcan01 0.60 0.60 1.10 25
trashcan02 0.60 0.60 1.10 25
trashcan03 0.60 0.60 1.10 25
trashcan04 0.60 0.60 1.10 25
trashcan05 0.60 0.60 1.10 25
travelcase 0.45 0.25 0.65 10
vendingmachine 1.00 0.90 1.90 300
warningaccident 1.00 0.50 1.00 10
warningconstruction 1.00 0.50 1.00 10
wateringcan 0.40 0.20 0.30 0
"""
_WALKERS = 51


class Library:
    """All blueprints by type id."""

    def __init__(self) -> None:
        self._by_type: dict[str, Blueprint] = {}
        self._wire: dict[int, list[list[Any]]] = {}
        for build in (_vehicles, _walkers, _props, _sensors, _others):
            for type_id, attributes, shape, label, mass_kg, solid in build():
                uid = len(self._by_type) + 1
                self._by_type[type_id] = Blueprint(uid, type_id, tuple(attributes), shape, label, mass_kg, solid)

    def wire(self, first_type: int) -> list[list[Any]]:
        """What clients may spawn, for one whose first attribute type has this number."""
        if first_type not in self._wire:
            listed = [b for b in self._by_type.values() if not b.type_id.startswith(("traffic.", "spectator"))]
            self._wire[first_type] = [blueprint.wire(first_type) for blueprint in listed]
        return self._wire[first_type]

    def find(self, type_id: str) -> Blueprint | None:
        """The blueprint of a type id, None when there is none."""
        return self._by_type.get(type_id)

    def __getitem__(self, type_id: str) -> Blueprint:
        return self._by_type[type_id]


_Row = tuple[str, list[Attribute], Shape, Label, float, bool]


def _vehicles() -> Iterable[_Row]:
    t = AttributeType
    for line in _CARS.split("\n"):
        if not line:
            continue
        type_id, length, width, height, mass, base, special, generation, lights = line.split()
        half = (float(length) / 2, float(width) / 2, float(height) / 2)
        two_wheels = base in ("motorcycle", "bicycle")
        attributes = [
            _free("role_name", t.STRING, "autopilot", "scenario", "ego_vehicle"),
            _free("sticky_control", t.BOOL, "true", "false"),
            _free("terramechanics", t.BOOL, "false", "true"),
            _free("ros_name", t.STRING, type_id),
            _fixed("number_of_wheels", t.INT, "2" if two_wheels else "4"),
            _fixed("object_type", t.STRING, base),
            _fixed("base_type", t.STRING, base),
            _fixed("special_type", t.STRING, "" if special == "-" else special),
            _fixed("generation", t.INT, generation),
            _fixed("has_dynamic_doors", t.BOOL, "true" if type_id in _DOORS else "false"),
            _fixed("has_lights", t.BOOL, "true" if lights == "y" else "false"),
        ]
        if type_id != "vehicle.tesla.cybertruck":  # bare steel
            attributes.append(_free("color", t.RGB, *_COLOURS))
        if two_wheels or type_id == "vehicle.lincoln.mkz_2020":
            attributes.append(Attribute("driver_id", t.INT, ("1", "2", "3"), restricted=True))
        yield type_id, attributes, Shape(half, (0.0, 0.0, half[2])), _LABELS[base], float(mass), True


def _walkers() -> Iterable[_Row]:
    t = AttributeType
    children = {9, 10, 11, 12, 13, 14, 48, 49}
    for number in range(1, _WALKERS + 1):
        child = number in children
        attributes = [
            _free("role_name", t.STRING, "pedestrian"),
            _free("is_invincible", t.BOOL, "true", "false"),
            _free("speed", t.FLOAT, "0.0", "1.4", "2.5" if not child else "2.0"),
            _free("can_use_wheelchair", t.BOOL, "false"),
            _free("use_wheelchair", t.BOOL, "false"),
            _free("ros_name", t.STRING, f"walker.pedestrian.{number:04d}"),
            _fixed("gender", t.STRING, "female" if number % 2 else "male"),
            _fixed("age", t.STRING, "child" if child else "adult"),
            _fixed("generation", t.INT, "2" if number > 14 else "1"),
        ]
        height_m = 0.55 if child else 0.93
        shape = Shape((0.19, 0.19, height_m), (0.0, 0.0, 0.0))
        yield f"walker.pedestrian.{number:04d}", attributes, shape, Label.PEDESTRIAN, 80.0, True


def _props() -> Iterable[_Row]:
    t = AttributeType
    for line in _PROPS.split("\n"):
        if not line:
            continue
        words = line.split()
        name = " ".join(words[:-4])  # one of them is called "bike helmet"
        length, width, height, mass = map(float, words[-4:])
        attributes = [
            _free("role_name", t.STRING, "prop"),
            _free("ros_name", t.STRING, name),
            _fixed("size", t.STRING, "medium" if length * width > 0.5 else "small"),
        ]
        if name == "mesh":
            attributes += [_free("mesh_path", t.STRING, ""), _free("mass", t.FLOAT, "0"), _free("scale", t.FLOAT, "1")]
        shape = Shape((length / 2, width / 2, height / 2), (0.0, 0.0, height / 2))
        yield f"static.prop.{name}", attributes, shape, Label.DYNAMIC, mass, mass > 0
    friction = [
        _free("role_name", t.STRING, "prop"),
        _free("friction", t.FLOAT, "3.5"),
        *(_free(f"extent_{axis}", t.FLOAT, "1000.0") for axis in "xyz"),
    ]
    yield "static.trigger.friction", friction, Shape(), Label.NONE, 0.0, False


def _others() -> Iterable[_Row]:
    t = AttributeType
    role = [_free("role_name", t.STRING, "default")]
    yield "controller.ai.walker", role, Shape(), Label.NONE, 0.0, False
    yield "util.actor.empty", role, Shape(), Label.NONE, 0.0, False
    yield "spectator", role, Shape(), Label.NONE, 0.0, False
    yield "traffic.traffic_light", role, Shape(), Label.TRAFFIC_LIGHT, 0.0, False
    for kind in ("stop", "yield", "unknown"):
        yield f"traffic.{kind}", role, Shape(), Label.TRAFFIC_SIGN, 0.0, False
    for limit in range(5, 150, 5):
        yield f"traffic.speed_limit.{limit}", role, Shape(), Label.TRAFFIC_SIGN, 0.0, False


def _sensors() -> Iterable[_Row]:
    for name, numbers in _SENSORS.items():
        attributes = [
            _free("role_name", AttributeType.STRING, "front"),
            _free("ros_name", AttributeType.STRING, name),
        ]
        for entry in numbers.split():
            attribute, _, value = entry.partition("=")
            attributes.append(_free(attribute, _kind_of(value), value))
        yield f"sensor.{name}", attributes, Shape(), Label.NONE, 0.0, False


def _kind_of(value: str) -> AttributeType:
    if value in ("true", "false"):
        return AttributeType.BOOL
    if value.lstrip("-").isdigit():
        return AttributeType.INT
    try:
        float(value)
    except ValueError:
        return AttributeType.STRING
    return AttributeType.FLOAT


_LENS = (
    "lens_circle_falloff=5.0 lens_circle_multiplier=0.0 lens_k=-1.0 lens_kcube=0.0 lens_x_size=0.08 lens_y_size=0.08"
)
_VIEW = f"image_size_x=800 image_size_y=600 fov=90.0 sensor_tick=0.0 {_LENS}"
_FILM = f"""{_VIEW} enable_postprocess_effects=true gamma=2.2 shutter_speed=200.0 iso=100.0 fstop=1.4
 min_fstop=1.2 blade_count=5 exposure_mode=histogram exposure_compensation=0.0 exposure_min_bright=10.0
 exposure_max_bright=12.0 exposure_speed_up=3.0 exposure_speed_down=1.0 calibration_constant=16.0
 focal_distance=1000.0 blur_amount=1.0 blur_radius=0.0 motion_blur_intensity=0.45
 motion_blur_max_distortion=0.35 motion_blur_min_object_screen_size=0.1 slope=0.88 toe=0.55 shoulder=0.26
 black_clip=0.0 white_clip=0.04 temp=6500.0 tint=0.0 chromatic_aberration_intensity=0.0
 chromatic_aberration_offset=0.0 bloom_intensity=0.675 lens_flare_intensity=0.1"""
_BEAM = """channels=32 range=10.0 points_per_second=56000 rotation_frequency=10.0 upper_fov=10.0 lower_fov=-30.0
 horizontal_fov=360.0 sensor_tick=0.0"""
_RADIO = """channel_id=Default transmit_power=21.5 receiver_sensitivity=-99.0 frequency_ghz=5.9
 combined_antenna_gain=10.0 scenario=highway path_loss_exponent=2.7 d_ref=1.0 filter_distance=500.0
 use_etsi_fading=true custom_fading_stddev=0.0 path_loss_model=winner noise_seed=0 sensor_tick=0.0"""
_IMU_NOISE = " ".join(f"noise_accel_stddev_{a}=0.0 noise_gyro_bias_{a}=0.0 noise_gyro_stddev_{a}=0.0" for a in "xyz")
_GNSS_NOISE = " ".join(f"noise_{a}_bias=0.0 noise_{a}_stddev=0.0" for a in ("lat", "lon", "alt"))
# sensor: attribute=default ...; the type of an attribute is that of its default
_SENSORS = {
    "camera.rgb": _FILM,
    "camera.depth": _VIEW,
    "camera.semantic_segmentation": _VIEW,
    "camera.instance_segmentation": _VIEW,
    "camera.normals": _VIEW,
    "camera.optical_flow": _VIEW,
    "camera.cosmos_visualization": _VIEW,
    "camera.dvs": f"{_FILM} positive_threshold=0.3 negative_threshold=0.3 sigma_positive_threshold=0.0"
    " sigma_negative_threshold=0.0 refractory_period_ns=0 use_log=true log_eps=0.001",
    "lidar.ray_cast": f"{_BEAM} atmosphere_attenuation_rate=0.004 dropoff_general_rate=0.45"
    " dropoff_intensity_limit=0.8 dropoff_zero_intensity=0.4 noise_seed=0 noise_stddev=0.0",
    "lidar.ray_cast_semantic": _BEAM,
    "other.collision": "",
    "other.lane_invasion": "",
    "other.obstacle": "distance=5.0 hit_radius=0.5 only_dynamics=false debug_linetrace=false sensor_tick=0.0",
    "other.gnss": f"{_GNSS_NOISE} noise_seed=0 sensor_tick=0.0",
    "other.imu": f"{_IMU_NOISE} noise_seed=0 sensor_tick=0.0",
    "other.v2x": f"{_RADIO} gen_cam_min=0.1 gen_cam_max=1.0 fixed_rate=false",
    "other.v2x_custom": _RADIO,
    "other.radar": "horizontal_fov=30.0 vertical_fov=30.0 range=100.0 points_per_second=1500 noise_seed=0"
    " sensor_tick=0.0",
}
LIBRARY = Library()
