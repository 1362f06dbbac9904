"""Stage two: networks, adaptation, data and the training loop."""
