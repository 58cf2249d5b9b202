"""From raw files to sequences, one module per kind of file."""
