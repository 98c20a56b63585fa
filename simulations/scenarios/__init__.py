"""Ready data sets with the sites, labels and prompt that belong to them."""
