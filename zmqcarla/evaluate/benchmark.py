"""What Bench2Drive makes of the records of an evaluation: success rate, efficiency, smoothness and abilities.

The definitions are those of its tools (`merge_route_json`, `efficiency_smoothness_benchmark`, `ability_benchmark`).
They divide by its 220 routes; here the means are over the routes of the evaluation, and how many those are is said.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

_SLOW: Final = "min_speed_infractions"
_UNBELIEVABLE_PERCENT: Final = 1000.0
"""Where the traffic stands, the ego is any number of times as fast; such a measurement is left out."""
_STOPS: Final = ("stop_infraction", "red_light")
_SIGNS: Final = "Traffic_Signs"

_ABILITIES: Final[dict[str, tuple[str, ...]]] = {
    "Overtaking": (
        "Accident", "AccidentTwoWays", "ConstructionObstacle", "ConstructionObstacleTwoWays", "HazardAtSideLane",
        "HazardAtSideLaneTwoWays", "ParkedObstacle", "ParkedObstacleTwoWays", "VehicleOpensDoorTwoWays",
    ),
    "Merging": (
        "CrossingBicycleFlow", "EnterActorFlow", "HighwayCutIn", "HighwayExit", "InterurbanActorFlow",
        "InterurbanAdvancedActorFlow", "MergerIntoSlowTraffic", "MergerIntoSlowTrafficV2",
        "NonSignalizedJunctionLeftTurn", "NonSignalizedJunctionLeftTurnEnterFlow", "NonSignalizedJunctionRightTurn",
        "ParkingExit", "SequentialLaneChange", "SignalizedJunctionLeftTurn", "SignalizedJunctionLeftTurnEnterFlow",
        "SignalizedJunctionRightTurn",
    ),
    "Emergency_Brake": (
        "BlockedIntersection", "ControlLoss", "DynamicObjectCrossing", "HardBreakRoute",
        "OppositeVehicleRunningRedLight", "OppositeVehicleTakingPriority", "ParkingCrossingPedestrian", "ParkingCutIn",
        "PedestrianCrossing", "StaticCutIn", "VehicleTurningRoute", "VehicleTurningRoutePedestrian",
    ),
    "Give_Way": ("InvadingTurn", "YieldToEmergencyVehicle"),
    _SIGNS: (
        "BlockedIntersection", "CrossingBicycleFlow", "EnterActorFlow", "NonSignalizedJunctionLeftTurn",
        "NonSignalizedJunctionLeftTurnEnterFlow", "NonSignalizedJunctionRightTurn", "OppositeVehicleRunningRedLight",
        "OppositeVehicleTakingPriority", "PedestrianCrossing", "SignalizedJunctionLeftTurn",
        "SignalizedJunctionLeftTurnEnterFlow", "SignalizedJunctionRightTurn", "T_Junction", "VanillaNonSignalizedTurn",
        "VanillaNonSignalizedTurnEncounterStopsign", "VanillaSignalizedTurnEncounterGreenLight",
        "VanillaSignalizedTurnEncounterRedLight", "VehicleTurningRoute", "VehicleTurningRoutePedestrian",
    ),
}  # fmt: skip


def is_success(record: Mapping[str, Any]) -> bool:
    """Return whether the route was driven to its end without an infraction, slowness aside."""
    flawless = not any(found for kind, found in record["infractions"].items() if kind != _SLOW)
    return record["status"] in {"Completed", "Perfect"} and flawless


def efficiency(record: Mapping[str, Any]) -> float | None:
    """Return the mean speed in percent of the traffic's, None where it was not measured."""
    said = [re.search(r"\b(\d+\.?\d*)%", message) for message in record["infractions"][_SLOW]]
    measured = [float(found[1]) for found in said if found]
    return _mean([percent for percent in measured if percent <= _UNBELIEVABLE_PERCENT])


def merged(records: Sequence[Mapping[str, Any]], total: int) -> dict[str, Any]:
    """Return the figures of an evaluation.

    Args:
        records: of the routes that are done; "scenario_type", "smoothness" and "first_junction_percent" are used.
        total: how many routes there are; those that are not done count as failed and as 0.
    """
    smooth = [record["smoothness"] for record in records if record.get("smoothness") is not None]
    efficient = [percent for percent in map(efficiency, records) if percent is not None]
    table = abilities(records)
    return {
        "score": sum(record["scores"]["score_composed"] for record in records) / max(total, 1),
        "success rate": sum(map(is_success, records)) / max(total, 1),
        "efficiency": _mean(efficient),
        "smoothness": _mean(smooth),
        "abilities": table,
        "ability mean": _mean([row["share"] for row in table.values() if row["share"] is not None]),
        "routes": {"all": total, "judged": len(records), "efficiency": len(efficient), "smoothness": len(smooth)},
    }


def abilities(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return for each ability how many of its routes were mastered; "share" is None where it has no routes.

    A sign or light counts as mastered also on a route that failed, when the ego came well past the first junction
    without running a stop sign or a red light.
    """
    table: dict[str, dict[str, Any]] = {name: {"mastered": 0, "routes": 0} for name in _ABILITIES}
    for record in records:
        for name, scenarios in _ABILITIES.items():
            if record.get("scenario_type") in scenarios:
                table[name]["routes"] += 1
                table[name]["mastered"] += is_success(record) or (name == _SIGNS and _passed_the_junction(record))
    for row in table.values():
        row["share"] = row["mastered"] / row["routes"] if row["routes"] else None
    return table


def _passed_the_junction(record: Mapping[str, Any]) -> bool:
    needed_percent = record.get("first_junction_percent")
    if needed_percent is None or any(record["infractions"][kind] for kind in _STOPS):
        return False
    return bool(record["scores"]["score_route"] > needed_percent)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
