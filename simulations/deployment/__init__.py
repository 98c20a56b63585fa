"""Whole deployments on this machine: consortium, server and sites in folders, with real processes and real TLS.

folders.py    consortium, server and sites, made and enrolled by the functions of the commands
processes.py  nginx, server, daemons and SuperNodes, for as long as they are wanted
trial.py      a small job on the shipped records, from nothing to an adapter at every site
"""
