"""Worker processes: the supervisor, the env process, and the CARLA environment inside it."""
