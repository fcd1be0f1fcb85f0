"""Processes whose rules differ from one deployment to the next, and that teach them only by use."""
