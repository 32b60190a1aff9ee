"""Other tools go in beside ours, one table comes out."""
