"""A run goes in, pages, tables and challenge submissions come out."""
