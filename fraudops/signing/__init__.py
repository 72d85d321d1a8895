"""Signed verdicts and waivers: the proof that `validate` or a person let a version through.

The modules import `cryptography` when they use the first key, so that `--help` stays fast.
"""
