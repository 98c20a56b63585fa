"""The commands of a simulation."""
