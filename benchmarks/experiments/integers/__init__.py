"""Trained networks go in, what their integers cost on every runtime comes out."""
