"""Parts of `docs/measure/evidence.py`, which tests the paper's statements with small networks."""
