"""Read checkpoints, choose among them, average them."""
