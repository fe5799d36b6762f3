"""The kinds of scenarios by the type that a route file gives."""

from __future__ import annotations

from typing import Final

from zmqcarla.workers.scenarios.base import Scenario
from zmqcarla.workers.scenarios.control_loss import ControlLoss
from zmqcarla.workers.scenarios.crossing import (
    DynamicObjectCrossing,
    ParkingCrossingPedestrian,
    PedestrianCrossing,
    VehicleTurningRoute,
    VehicleTurningRoutePedestrian,
)
from zmqcarla.workers.scenarios.cut_in import HighwayCutIn, ParkingCutIn, StaticCutIn
from zmqcarla.workers.scenarios.emergency import YieldToEmergencyVehicle
from zmqcarla.workers.scenarios.given_flow import (
    EnterActorFlow,
    HighwayExit,
    InterurbanActorFlow,
    MergerIntoSlowTraffic,
)
from zmqcarla.workers.scenarios.hard_brake import HardBreakRoute
from zmqcarla.workers.scenarios.invading_turn import InvadingTurn
from zmqcarla.workers.scenarios.junctions import (
    BlockedIntersection,
    NonSignalizedJunctionLeftTurn,
    NonSignalizedJunctionRightTurn,
    OppositeVehicleRunningRedLight,
    OppositeVehicleTakingPriority,
    PriorityAtJunction,
    SignalizedJunctionLeftTurn,
    SignalizedJunctionRightTurn,
)
from zmqcarla.workers.scenarios.obstacles import (
    Accident,
    AccidentTwoWays,
    ConstructionObstacle,
    ConstructionObstacleTwoWays,
    HazardAtSideLane,
    HazardAtSideLaneTwoWays,
    ParkedObstacle,
    ParkedObstacleTwoWays,
    VehicleOpensDoorTwoWays,
)

KINDS: Final[dict[str, type[Scenario]]] = {
    kind.__name__: kind
    for kind in (
        Accident,
        AccidentTwoWays,
        BlockedIntersection,
        ConstructionObstacle,
        ConstructionObstacleTwoWays,
        ControlLoss,
        DynamicObjectCrossing,
        EnterActorFlow,
        HardBreakRoute,
        HazardAtSideLane,
        HazardAtSideLaneTwoWays,
        HighwayCutIn,
        HighwayExit,
        InterurbanActorFlow,
        InvadingTurn,
        MergerIntoSlowTraffic,
        NonSignalizedJunctionLeftTurn,
        NonSignalizedJunctionRightTurn,
        OppositeVehicleRunningRedLight,
        OppositeVehicleTakingPriority,
        ParkedObstacle,
        ParkedObstacleTwoWays,
        ParkingCrossingPedestrian,
        ParkingCutIn,
        PedestrianCrossing,
        PriorityAtJunction,
        SignalizedJunctionLeftTurn,
        SignalizedJunctionRightTurn,
        StaticCutIn,
        VehicleOpensDoorTwoWays,
        VehicleTurningRoute,
        VehicleTurningRoutePedestrian,
        YieldToEmergencyVehicle,
    )
}
