"""The protocol of the pool and the ROUTER that speaks it; imports nothing of ours from other rooms."""
