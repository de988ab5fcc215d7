"""Say what is split: the partition, the names of its networks, the level of a parameter."""
