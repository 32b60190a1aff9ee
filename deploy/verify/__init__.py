"""A file goes in; where its runtimes differ, which of them take it, and what it loses without loss come out."""
