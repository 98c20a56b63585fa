"""The process that is always there: it keeps a SuperLink and the jobs, and tells how they stand."""
