"""What this machine can do for dmatrace, looked at without changing anything.

Nothing is loaded, attached, mounted or raised: a check reads files, or asks the
kernel a question that has no effect.  What this user may not look at is
"unknown", never a guess.
"""

from __future__ import annotations

from dmatrace.session.doctor.check import Finding, Machine, State
from dmatrace.session.doctor.table import CHECKS, Line, examine, records

__all__ = ["CHECKS", "Finding", "Line", "Machine", "State", "examine", "records"]
