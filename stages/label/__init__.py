"""Labels of the target by a classifier of stored features, written once and stored as they are."""
