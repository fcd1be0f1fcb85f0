"""The gate study: its cases and judges. Ranges of tasks."""
