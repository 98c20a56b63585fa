"""Differential privacy by itself: mechanisms, accountants, private gradients, randomness, and the words for them."""
