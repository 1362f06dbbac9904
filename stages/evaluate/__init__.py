"""Evaluation of a student: inference, mean IoU, pictures."""
