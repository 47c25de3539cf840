"""Classifies millions of videos in stages (decode, model, write) with Ray Data on a cluster, or without Ray."""
