"""Traces, real tasks, and the dream as a Gymnasium environment."""
