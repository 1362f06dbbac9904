"""Command line, parameters, presets and report."""
