"""What `examples/train.py` is made of: recipes, data, checkpoints, mixing, logs."""
