"""What verbs do, and the directory that they do it in."""
