"""A server's console: what the coordinator's operator and an officer see of it, and what they may do."""
