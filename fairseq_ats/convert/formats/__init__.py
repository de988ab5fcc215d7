"""Write one network in a format that other programs read."""
