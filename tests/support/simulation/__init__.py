"""The promotion protocol in a seeded world: the product's own code over ports that lose, delay,
pause and kill.
"""
