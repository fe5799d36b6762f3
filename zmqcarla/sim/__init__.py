"""The embedded simulator: a small driving simulator that speaks CARLA 0.9.16's own protocol."""
