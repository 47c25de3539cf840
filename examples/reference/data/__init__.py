"""Data sets as they lie on disk: lists, folders and shards, and clips of them in batches."""
