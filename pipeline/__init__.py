"""What a person touches: command line, parameters, presets."""
