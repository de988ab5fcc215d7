"""Declare options, turn them into typed values, and check them."""
