"""Clips that are drawn, not filmed: moving shapes that only motion tells apart, scenes of several, and noise."""
