"""Decoders: each gives the frames of one kind of source by index, behind the interface of `base`."""
