"""From raw files to prepared sequences and batches."""
