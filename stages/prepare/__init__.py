"""Datasets to one manifest: sources, label tables, pixels and geometry."""
