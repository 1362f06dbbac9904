"""Evaluation and use of a student: mean IoU, pictures, prediction of any image, export."""
