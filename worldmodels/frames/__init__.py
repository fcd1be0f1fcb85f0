"""EfficientZero's model of frames."""
