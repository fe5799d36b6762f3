"""`zmqcarla evaluate`: an agent drives the routes of a file on a pool, and is scored as on the CARLA Leaderboard."""
