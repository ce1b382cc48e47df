"""
Reconnect storms: how hard the clients of a dead node hit those that live, and how soon everybody is back.

``python -m benchmarks storm``. First in simulated time (``storm_model.py`` has the rules), where our clients are the
session's own objects and the others their documented policies (``storm_policies.py``); then in earnest, 500 sessions
and a node that is killed (``storm_real.py``). ``ideal`` is a herd that comes at the pace in which it is taken in:
nobody can be better. A policy that never brings a share of its clients back has no row for the time to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmarks.plan import Plan
from benchmarks.rows import Row, compared
from benchmarks.storm_model import Policy, Servers, Storm, simulate
from benchmarks.storm_policies import FEW, FULL_JITTER, OTHERS, WEBSOCKETS, ours
from benchmarks.storm_real import Aftermath, strike

SERVERS = Servers()
SHARES = (0.5, 0.9, 0.99, 1.0)
SUBJECTS = ("session", "patient")
"""Ours, by default and with ``Retry(max_spread=)`` at the longest window that a node advises."""
IDEAL = "ideal"
SILENT = "the same nodes with --spread=0"
LARGE = 10
"""``--full`` has a herd so many times as large."""
HEAD = (
    f"  {'policy':42} {'peak/s':>9} {'over capacity':>13} {'peak/0.1 s':>10} {'attempts':>11} {'each':>6}"
    f"{'in vain':>9}"
    f"{'50 %':>8}{'90 %':>8}{'99 %':>8}{'100 %':>8} {'over ideal':>10} {'never':>8}"
)


def line(storm: Storm) -> str:
    """Return one policy's figures; times are seconds, the ideal is that of 99 percent."""
    times = "".join(f"{storm.time_to(share):8.1f}" for share in SHARES)
    return (
        f"  {storm.policy:42} {storm.peak:9,} {storm.pressure:13.2f} {storm.sharpest:10,} {storm.attempts:11,} "
        f"{storm.each:6.2f} {storm.wasted:8,}{times} {storm.over_ideal(0.99):10.2f} {storm.never:8,}"
    )


def figures(storms: Sequence[Storm]) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Return, for each (case, unit), what each policy has; the ideal beside them."""
    clients, capacity = storms[0].clients, storms[0].capacity
    found: dict[tuple[str, str], dict[str, list[float]]] = {
        ("most attempts in a second", "of what is accepted"): {s.policy: [s.pressure] for s in storms} | {IDEAL: [1.0]},
        ("attempts", "for each client"): {s.policy: [s.each] for s in storms} | {IDEAL: [1.0]},
    }
    for share in SHARES:
        times = {storm.policy: [storm.time_to(share)] for storm in storms} | {IDEAL: [share * clients / capacity]}
        there = {name: time for name, time in times.items() if math.isfinite(time[0])}
        found[f"until {share:.0%} are back", "seconds"] = there
    return found


def rows_of(prefix: str, found: Mapping[tuple[str, str], Mapping[str, Sequence[float]]]) -> list[Row]:
    """Return ours against everybody, case by case."""
    return [
        row
        for (case, unit), theirs in found.items()
        for row in compared("storm", f"{prefix}: {case}", unit, theirs, SUBJECTS)
    ]


def run_herd(plan: Plan, clients: int, policies: Sequence[Policy]) -> list[Row]:
    """Let the same node die for each policy, and tell every line as it is there."""
    ideal = clients / SERVERS.capacity
    plan.say(f"\nstorm: {clients:,} clients, {SERVERS.capacity:,} accepts a second, ideal {ideal:,.0f} s\n{HEAD}")
    storms: list[Storm] = []
    for policy in policies:
        storms.append(simulate(policy, clients, servers=SERVERS))
        plan.say(line(storms[-1]))
    return rows_of(f"{clients:,} clients", figures(storms))


def run_crowd(plan: Plan) -> list[Row]:
    """Kill a real node, with the advice that the nodes compute and without."""
    storms = {"session": strike(plan.crowd, None), SILENT: strike(plan.crowd, 0.0)}
    found: dict[tuple[str, str], dict[str, list[float]]] = {
        ("most handshakes in 0.1 s", "handshakes"): {name: [float(s.peak)] for name, s in storms.items()},
        ("attempts", "for each client"): {name: [storm.each] for name, storm in storms.items()},
    }
    for share in SHARES:
        found[f"until {share:.0%} are back", "seconds"] = {name: [s.time_to(share)] for name, s in storms.items()}
    plan.say(f"\nstorm: {plan.crowd} real sessions at three nodes, one killed")
    for name, storm in storms.items():
        plan.say(told(name, storm))
    return rows_of(f"{plan.crowd} real sessions", found)


def told(name: str, storm: Aftermath) -> str:
    """Return a real storm in words."""
    times = " / ".join(f"{storm.time_to(share):.2f}" for share in SHARES)
    return (
        f"  {name}: {len(storm.back)} lost their node, {storm.attempts} attempts, at most {storm.peak} handshakes in "
        f"0.1 s, 50 / 90 / 99 / 100 % back after {times} s"
    )


def run(plan: Plan) -> list[Row]:
    """Run the herd, in the full form also a larger one, and the crowd."""
    rows: list[Row] = []
    default, patient, silent, direct = ours(plan.herd, SERVERS)
    everybody = (default, patient, silent, direct, *OTHERS) if plan.is_full else (default, patient, silent, *FEW)
    rows += run_herd(plan, plan.herd, everybody)
    if plan.is_full:
        many = LARGE * plan.herd
        rows += run_herd(plan, many, (*ours(many, SERVERS)[1:2], FULL_JITTER, WEBSOCKETS))
    rows += run_crowd(plan)
    plan.tell(rows)
    return rows
