"""Make one network ready to use."""
