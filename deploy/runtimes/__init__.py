"""A file goes in, a session comes out that runs it on one runtime, isolated where that may crash."""
