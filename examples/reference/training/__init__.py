"""Parts of `train.py`: recipes, data, checkpoints, mixing, logs."""
