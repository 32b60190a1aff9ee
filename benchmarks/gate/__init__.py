"""Measurements, limits and a baseline go in, a verdict with reasons comes out."""
