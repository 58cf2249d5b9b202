"""From raw bytes to ragged sequences to batches."""
