"""What is left after training: the student, its weights, how it predicts and is measured."""
