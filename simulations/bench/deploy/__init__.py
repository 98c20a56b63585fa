"""What a deployment costs, measured: real nginx, SuperLink, SuperNodes, daemons and protocol; no training.

plan.py       what was asked for, the job, and a base whose adapter has as many parameters
daemons.py    sites' daemons in one process, with random updates in place of training
empty.py      Flower's part of an exchange by itself: messages that are answered at once
usage.py      memory and processor time of all processes, read from the kernel
figures.py    from the logs to seconds and bytes; pure
run.py        one measurement from nothing to its figures
"""
