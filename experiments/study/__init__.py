"""The gate study: its cases and judges."""
