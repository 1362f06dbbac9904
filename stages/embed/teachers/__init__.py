"""The frozen networks whose features are stored."""
