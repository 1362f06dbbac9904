"""Where images come from: one module per kind of dataset, all with the same `scan`."""
