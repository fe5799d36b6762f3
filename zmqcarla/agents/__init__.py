"""Agents of the CARLA Leaderboard and policies of a training process, in each other's place.

`PolicyServer` and the agent file `BUS_AGENT` let the unmodified Leaderboard evaluator be driven by a policy that lives
in the training process.
"""

from zmqcarla.agents.policy_server import BUS_AGENT, Policy, PolicyServer, Route

__all__ = ["BUS_AGENT", "Policy", "PolicyServer", "Route"]
