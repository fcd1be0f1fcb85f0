"""How a log becomes a world, and how far that world can be trusted."""
