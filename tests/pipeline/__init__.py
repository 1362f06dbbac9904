"""The command line, its parameters and presets, and the pipeline that DVC runs."""
