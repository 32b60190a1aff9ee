"""A checkpoint goes in, a smaller one comes out."""
