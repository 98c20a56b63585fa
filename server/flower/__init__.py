"""Flower's control API and the nodes that it knows."""
