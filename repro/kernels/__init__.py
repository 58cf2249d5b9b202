"""Fast paths on a CPU; see README.md here."""
