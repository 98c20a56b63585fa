"""The commands of a server, and the tables that they print."""
