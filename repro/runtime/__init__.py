"""Devices, seeds, files and provenance."""
