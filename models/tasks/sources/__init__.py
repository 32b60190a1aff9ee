"""Folders, arrays and generators go in, splits of clips come out."""
