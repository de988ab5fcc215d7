"""Measure time, memory and quality: one module for each benchmark."""
