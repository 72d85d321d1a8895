"""Readers of request bodies: transactions, labels, and lists of them.

msgspec decodes a body directly into a struct that is built from the served schema. Only a refused
body is examined a second time, in slower Python code that finds all of its faults. An error names
the field and the reason. It never contains a value, which may be card data.
"""
