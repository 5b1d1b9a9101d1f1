"""Computations on a Ray cluster: the session of a job, its tasks. Only this package imports Ray."""
