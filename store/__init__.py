"""The feature store: numpy and zarr, no torch."""
