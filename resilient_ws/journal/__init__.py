"""
The journal: what has no ack, how far each stream was handled, and the session, in one file that outlives a crash.

``python -m resilient_ws.journal show|verify|export FILE`` looks at one. Sockets and sessions never live here.
"""

from __future__ import annotations

from resilient_ws.journal.opening import open_journal
from resilient_ws.journal.writing import Journal, Opened

__all__ = ["Journal", "Opened", "open_journal"]
