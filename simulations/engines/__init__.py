"""What plays the sites of a simulated run: this process, one pass for all, Flower on Ray, a cluster that is there."""
