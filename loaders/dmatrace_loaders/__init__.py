"""Load strategies: every way to get a file into memory that devices share.

``table`` lists them, one module per family implements them, ``runner`` is the
process that runs them.  Independent of dmatrace, which only controls the
runner.
"""
