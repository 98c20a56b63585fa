"""Differential privacy and cryptography: what a site may let out, what it costs, and the record of what was spent."""
