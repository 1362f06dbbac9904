"""The student: its networks, weights, predictions and scores."""
