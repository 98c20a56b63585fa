"""A proof of concept for one site: are its records fit, is a trial better than nothing, what would joining add."""
