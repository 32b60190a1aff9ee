"""Recordings go in, what teachers and the contrastive term are worth comes out."""
