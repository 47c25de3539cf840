"""What `examples/reference/train.py` is made of: recipes, data, checkpoints, mixing, logs."""
