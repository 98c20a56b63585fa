"""Benchmarks: of rules, of secure aggregation, and of a deployment."""
