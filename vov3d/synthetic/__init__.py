"""Generated clips: moving shapes whose classes differ only in motion, scenes of several shapes, and noise."""
