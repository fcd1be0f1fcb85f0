"""The model of vector observations: an ensemble, grounded in what it decodes."""
