"""Programs that run to completion, and the `fraudops` command line.

Each command is one module, and each module is also the program of a Job in the cluster.
"""
