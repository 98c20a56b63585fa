"""Noise that the sites make together: rotated, rounded, and added in shares below the masks."""
