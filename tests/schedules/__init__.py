"""Scripted schedules: real clients, nodes and store, with every message and every answer in the hands of a test."""

from __future__ import annotations
