"""`zmqcarla demo`: a pool that drives, and the pictures of it."""
