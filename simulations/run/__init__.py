"""A simulated run, from data and job to its folder: federation, comparisons, report."""
