"""Decoders: each reads the frames of one kind of source by index, behind the interface of `base`."""
