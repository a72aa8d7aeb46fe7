"""Recordings of hundreds of devices: how load times and page-cache bills are distributed.

harvest.py makes a few numbers of each recording, analyse.py tells groups and
outliers of these, engine.py runs both: here with pandas, or on a Dask cluster.
The analysis is one pure function over whole groups, so both give one answer.
"""

from __future__ import annotations
