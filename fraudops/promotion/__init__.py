"""Moving a version to production as one act: the serving record, and the protocol around it."""
