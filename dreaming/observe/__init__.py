"""What was observed: behaviours, recorded logs, and logs as arrays on the device."""
