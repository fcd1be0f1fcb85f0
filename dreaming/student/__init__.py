"""The student, the network that is deployed: inputs, rehearsal, distillation, scores, files."""
