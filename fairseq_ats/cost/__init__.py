"""Count the FLOPs, parameters and memory of networks and updates."""
