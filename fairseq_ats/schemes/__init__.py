"""Say what an update does: at which points it takes gradients, and what it moves."""
