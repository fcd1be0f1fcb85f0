"""The command line: options, jobs, progress."""
