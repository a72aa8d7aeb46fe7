"""The kernel side: BPF C, the hook table, and what resolves and loads them.

``hooks`` is the table, ``resolve`` lays it over the running kernel,
``program`` compiles and attaches through bcc.  Only ``session`` uses this.
"""
