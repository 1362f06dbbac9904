"""Restyling: mixers, and the stage that writes mixed images."""
