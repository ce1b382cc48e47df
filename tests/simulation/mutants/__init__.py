"""
Planted defects: each a patch by name of client, node, store or journal, applied alone, in the fault mix that it needs.

A simulation that does not find them proves nothing. The seeds that are known to find them are in ``seeds.json``;
``python -m tests.simulation --defects`` runs them, ``--search NAME`` looks for others.
"""

from __future__ import annotations

from tests.simulation.mutants import arrivals, client, combined, journal, node, reading, store, tokens
from tests.simulation.mutants.mutant import Mutant

MODULES = (client, arrivals, journal, node, reading, store, tokens, combined)
MUTANTS: dict[str, Mutant] = {name: mutant for module in MODULES for name, mutant in module.MUTANTS.items()}
