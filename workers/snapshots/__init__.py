"""Snapshots of `CarlaEnv`: a moment of an episode as bytes, and the way back to it.

`capture` makes one, `restore` and `replay` are the two ways back, `store` keeps them, `format` and `plain` say how they
lie in bytes, `report` measures what a restore reached. docs/snapshots.md says what is exact.
"""
