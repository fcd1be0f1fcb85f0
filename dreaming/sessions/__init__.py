"""Sessions of real work: a policy learns in them by context, and keeps it in its weights."""
