"""A site's console: what its operator and an officer see of it, and what they may do."""
