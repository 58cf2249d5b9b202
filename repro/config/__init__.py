"""From the files in config/ to one frozen recipe per run; no torch."""
