"""Faults of stage one, injected for real: in a quick form and, marked slow, in a thorough one."""
