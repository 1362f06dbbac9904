"""Restyling: images of the source in the style of others, their labels kept."""
