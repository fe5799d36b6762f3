"""What a person sees of a pool and of the machine under it: status, top, events, doctor."""
