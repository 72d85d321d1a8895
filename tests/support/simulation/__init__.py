"""The promotion protocol in a simulated, seeded world.

The product's own code runs over ports that lose, delay, pause and kill.
"""
