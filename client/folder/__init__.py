"""A site's folder: what lies in it, whose it is, and how the site comes into a federation."""
