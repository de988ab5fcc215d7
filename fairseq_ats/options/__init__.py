"""Check options and their combinations."""
