"""A checkpoint goes in, a proven file for a device comes out."""
