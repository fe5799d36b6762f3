"""What the CARLA Leaderboard 2.0 counts against a driver; one class a criterion, fed with recorded ticks.

Thresholds and rules are those of the public repositories carla-simulator/leaderboard and scenario_runner. One thing is
simpler: they follow the route over waypoints a metre apart, we over the distance along the line.
"""
