"""The world's side of the door: traces, real tasks, and the dream as a Gymnasium environment."""
