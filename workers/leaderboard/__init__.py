"""`zmqcarla/Leaderboard-v0`: routes of the CARLA Leaderboard or of Bench2Drive, run by the user's own checkouts.

None of their code is here, and none of it is changed: `checkout` finds and imports it, `lockstep` lets the part of it
that runs in a thread of its own keep step with the env, `official_episode` drives a route scenario of theirs, and
`official_score` asks their statistics what the driver deserves.
"""
