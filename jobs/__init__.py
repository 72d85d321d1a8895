"""Programs that end: data, train, validate, promote, drift, monitor, migrate …, and the command
line over them.
"""
