"""A pull request or a commit goes in, the gate's verdict comes out where its author reads it."""
