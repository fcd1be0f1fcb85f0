"""The work of the verbs, and the run directory that they write."""
