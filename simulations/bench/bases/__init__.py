"""Which task gains from a larger base: the same jobs on several, and what a larger one costs.

`tasks.py` deals out the records, `rounding.py` has a base in fewer bits, `run.py` trains and measures, `advice.py` says
which base to take and why, `table.py` shows it.
"""
