"""
A synchronous WebSocket client whose sessions outlive the connections under them.

What lives here: the public names, and nothing that runs. What never does: an import of a module with I/O, so that
``import resilient_ws`` stays cheap.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
