"""Measurements of the service beside rivals. README.md explains what is measured and how to read it."""
