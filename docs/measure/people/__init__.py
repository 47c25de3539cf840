"""Clips of people for `docs/measure/real_videos.py`, which asks whether training on them helps with real videos."""
