"""A run's report: its values, its claims, its tables, figures and pages."""
