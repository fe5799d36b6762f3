"""Arrays that two processes see: segments, layouts, rings; imports nothing of ours from other rooms."""
