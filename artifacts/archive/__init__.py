"""Formats, unpacking and packing: buffers in, files out, and back. Knows no network and no credential."""
