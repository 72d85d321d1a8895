"""Readers of request bodies: transactions, labels, and lists of them.

msgspec decodes a body directly into a struct that is built from the served schema. Only a refused
body is examined a second time, in slower Python code that finds its faults. That code uses the same
decoders, and never fails on a body. It reports 100 faults at most, examines 64 KiB at most before
other requests run, and never copies the whole body. An error names the field and the reason. It
never contains a value, which may be card data.
"""
