"""What a Leaderboard route file lets happen on the way: obstacles, crossing walkers, cars that cut in.

Distances, speeds and times are those of the public repository carla-simulator/scenario_runner; what is simpler here
is said at each kind. `kinds` lists them, `programme` runs those of a route.
"""
