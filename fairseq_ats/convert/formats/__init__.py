"""Write one network in a format that others read."""
