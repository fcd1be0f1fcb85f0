"""The model of vector observations: a closed-form base under an ensemble of networks."""
