"""Say which networks an update trains."""
