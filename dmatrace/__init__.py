"""dmatrace: where the time and the page cache of a dma-buf load go."""

__version__ = "0.1.0"
