"""Parts of `reference.localize`: annotations, features, the head, its training, and what it is measured by."""
