"""Benchmarks: of rules, of secure aggregation, of a deployment, and records dealt out the hard way."""
