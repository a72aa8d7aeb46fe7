"""Running sessions: the only code that needs root.

kernel maps and ring buffer -> rows of the recording's tables.
"""
