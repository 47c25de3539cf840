"""The paper's claims, tested in small: the parts of `docs/measure/evidence.py`."""
