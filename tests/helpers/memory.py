"""What was in memory before."""

import torch


def fill_free_memory() -> None:
    """Fills memory that is free afterwards with 1e30, so that code which reads what nobody wrote gives that."""
    for size in (64, 256, 1024, 4096, 16384):
        torch.full((size,), 1e30)
