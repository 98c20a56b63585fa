"""One round's numbers: draws, clipped gradients, steps, and what an adapter is worth on records."""
