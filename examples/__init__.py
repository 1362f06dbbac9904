"""Examples of using the pipeline; the product works without them, but for the drawn world."""
