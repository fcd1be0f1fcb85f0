"""Behaviours that record logs, recorded logs, and logs as arrays on the device."""
