"""The commands of a site, and the tables that they print."""
