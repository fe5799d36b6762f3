"""Agents of the CARLA Leaderboard and policies of a training process, in each other's place.

`PolicyServer` and the agent file `BUS_AGENT` let the unmodified Leaderboard evaluator be driven by a policy that lives
in the training process. `AgentProcess` runs an agent's file in a process of its own, with an interpreter of its own.
"""

from zmqcarla.agents.agent_process import AgentError, AgentProcess, Manner
from zmqcarla.agents.policy_server import BUS_AGENT, Policy, PolicyServer, Route

__all__ = ["BUS_AGENT", "AgentError", "AgentProcess", "Manner", "Policy", "PolicyServer", "Route"]
