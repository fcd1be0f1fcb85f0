"""The table of a suite of Atari-100k, beside the published scores."""
