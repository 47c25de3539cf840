"""The parts of `evaluate.py`: what is evaluated, how scores are kept, and what is made of them."""
