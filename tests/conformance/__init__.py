"""Any node against the specification: see ``docs/node.md``."""
