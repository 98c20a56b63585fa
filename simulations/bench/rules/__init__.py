"""`yoriai bench rules`: every rule tuned with the same effort, then measured on test records over several splits.

plan.py      which trainings there are: the search's grids, the job that a training runs
training.py  one training in a worker process: accuracy, bytes, seconds, error of the product
store.py     what is measured, one line a training, so that an interrupted benchmark goes on
run.py       the phases: search, choice, final trainings, baselines
tables.py    what people read
"""
