"""A simulated run, from data and job to its folder: engines, federation, comparisons."""
