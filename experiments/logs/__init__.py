"""Logs: recorded, read, inspected."""
