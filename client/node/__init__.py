"""Flower's side of a site: an app without secrets that carries messages to the daemon, and its SuperNode."""
