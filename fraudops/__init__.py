"""The library that the programs of fraudops share.

It covers data, models, the registry, promotions, the serving record, the audit and drift. It
imports no web framework and reads no command line.
"""

__version__ = "0.3.0-dev"
