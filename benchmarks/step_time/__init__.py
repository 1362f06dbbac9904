"""Seconds, memory and parts of one training step, arm by arm."""
