"""What the programs of fraudops agree on: data, models, the serving record, the audit trail.

No web framework, no argv.
"""

__version__ = "0.2.0"
