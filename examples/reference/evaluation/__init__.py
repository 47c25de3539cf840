"""Parts of `evaluate.py`: the videos, the models, the stored scores, metrics and pictures."""
