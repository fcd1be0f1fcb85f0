"""From a log to a world, its judges, and how far the world can be trusted."""
