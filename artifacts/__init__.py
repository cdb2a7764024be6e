"""Stage the artifacts of a StudioML experiment request, and return its results."""
