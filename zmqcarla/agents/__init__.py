"""Agents of the CARLA Leaderboard on this side of the bus.

`PolicyServer` lets a policy of this process drive the Leaderboard's own, unmodified evaluator: the evaluator is given
`bus_agent.py` as its `--agent`, and the file that the server writes as its `--agent-config`.
"""

from zmqcarla.agents.policy_server import AgentError, PolicyServer

__all__ = ["AgentError", "PolicyServer"]
