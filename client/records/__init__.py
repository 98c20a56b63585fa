"""Files to tokens: what a site teaches with, read, checked, encoded, and cut into units of privacy."""
