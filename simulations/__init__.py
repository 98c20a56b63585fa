"""Many sites on one machine: engines, ready scenarios, comparisons and reports. May import everything below it."""
