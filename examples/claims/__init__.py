"""The paper's claims, tested in small: the parts of `examples/evidence.py`."""
