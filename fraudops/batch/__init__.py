"""Scores files with the model that serves.

A run works piece by piece in bounded memory, can be resumed, and can be divided into shards for
several machines.
"""
