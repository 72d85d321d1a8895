"""Readers of request bodies: transactions, labels, and lists of them.

msgspec decodes a body directly into a struct that is built from the served schema. Only a refused
body is examined a second time, in slower Python code that finds its faults. That code uses the same
decoders, never raises, and has a budget: 100 faults, 64 KiB between two turns of the event loop,
and no copy of the whole body. An error names the field and the reason. It never contains a value,
which may be card data.
"""
