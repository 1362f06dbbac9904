"""The official numbers, through our own functions."""
