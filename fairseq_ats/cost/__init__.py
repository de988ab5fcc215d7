"""Count what networks and updates cost."""
