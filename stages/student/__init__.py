"""The student, all that is left after training: its networks, weights, predictions, scores."""
