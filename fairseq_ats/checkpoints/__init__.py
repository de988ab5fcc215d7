"""Read checkpoints, choose among them, and average them."""
