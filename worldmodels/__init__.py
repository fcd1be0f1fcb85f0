"""Learned physics: pure functions of (params, arrays)."""
