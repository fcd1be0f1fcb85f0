"""The model of vector observations: an ensemble that re-encodes the observations it decodes."""
