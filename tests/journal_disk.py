"""
A disk to crash: what a process did to a directory, by strace, done again call by call on a model of a file system.

After any call the model says what a SIGKILL would leave, and what a power loss may leave: of what was not made safe by
a fsync any part can be missing, in any order, and single sectors of it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import attrs
from journal_tools import need, run_python, strace

SECTOR = 512
CALLS = "open,openat,write,pwrite64,fsync,fdatasync,ftruncate,rename,link,linkat,unlink,unlinkat,renameat,renameat2"
_CALL = re.compile(r"\d+ +(\w+)\((.*)\) += (-?\d+)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_HANDLE = re.compile(r"(\d+)<((?:\\x[0-9a-f]{2})*)>")


@attrs.frozen
class Call:
    """One call that succeeded: its name, the names of files that it is about, and what else it needs."""

    name: str
    files: tuple[str, ...]
    data: bytes = b""
    number: int = 0
    flags: str = ""


def traced(script: str, *arguments: object, log: Path) -> list[Call]:
    """Run a script in another process; returns what it did to files, and what it wrote on stdout as calls ``said``."""
    need(sys.platform == "linux", "Linux")
    command = strace("-y", "-xx", "-s", "99999", "-o", str(log), "-e", f"trace={CALLS}")
    done = run_python(script, *arguments, under=command, cwd=log.parent)
    assert done.returncode == 0, done.stderr
    found = (_CALL.match(line) for line in log.read_text().splitlines())
    return [call for match in found if match and int(match[3]) >= 0 for call in _calls(*match.groups(), log.parent)]


def _calls(name: str, arguments: str, result: str, directory: Path) -> Iterator[Call]:
    strings = [_unhex(text) for text in _STRING.findall(arguments)]
    handle = _HANDLE.match(arguments)
    file = os.fsdecode(_unhex(handle[2])) if handle else ""
    numbers = [int(word) for word in re.findall(r"(?<=, )\d+(?=,|$)", arguments)]
    if name in ("write", "pwrite64"):
        data = strings[0][: int(result)]
        if handle and handle[1] == "1":
            yield Call("said", (), data)
        elif name == "pwrite64":
            yield Call("write", (file,), data, numbers[-1])
        else:
            assert not file.startswith(str(directory)), f"a write without a place, to {file}"
    elif name == "ftruncate":
        yield Call("truncate", (file,), b"", numbers[-1])
    elif name in ("fsync", "fdatasync"):
        yield Call("sync", (file,))
    else:
        named = [str(directory / os.fsdecode(text)) for text in strings if text]
        kind = next(kind for kind in ("open", "rename", "unlink", "link") if name.startswith(kind))
        yield Call(kind, tuple(named), flags=arguments)


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


# -- the file system --------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Inode:
    """A file: what is in it, what of that is safe, and what was done to it since."""

    content: bytearray = attrs.field(factory=bytearray)
    safe: bytes = b""
    since: list[tuple[int, bytes | None]] = attrs.field(factory=list)

    def write(self, offset: int, data: bytes | None) -> None:
        """Write, or cut off at ``offset`` (no data)."""
        _apply(self.content, offset, data)
        self.since.append((offset, data))

    def sync(self) -> None:
        """Make it safe."""
        self.safe = bytes(self.content)
        self.since.clear()

    def after_power_loss(self, rng: Random, share: float) -> bytes:
        """Return what may be left: what is safe, and of the rest about a share, in sectors."""
        left = bytearray(self.safe)
        for offset, data in self.since:
            if data is None:
                if rng.random() < share:
                    _apply(left, offset, None)
                continue
            whole = rng.random() < 0.8
            keeps = rng.random() < share
            for start in range(0, len(data), SECTOR):
                if keeps if whole else rng.random() < share:
                    _apply(left, offset + start, data[start : start + SECTOR])
        return bytes(left)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if len(content) < offset:
        content += bytes(offset - len(content))
    if data is None:
        del content[offset:]
    else:
        content[offset : offset + len(data)] = data


@attrs.define(eq=False)
class Disk:
    """One directory on a disk; what is done outside of it is not looked at."""

    directory: str
    names: dict[str, Inode] = attrs.field(factory=dict)
    safe_names: dict[str, Inode] = attrs.field(factory=dict)
    since: list[tuple[str, list[str], Inode]] = attrs.field(factory=list)

    def load(self, directory: Path) -> None:
        """Begin with what is in a directory, all of it safe."""
        for entry in directory.iterdir():
            content = entry.read_bytes()
            self.names[entry.name] = self.safe_names[entry.name] = Inode(bytearray(content), content)

    def do(self, call: Call) -> None:
        """Do one call."""
        if call.name == "sync" and call.files[0] == self.directory:
            self.safe_names = dict(self.names)
            self.since.clear()
            return
        inside = [Path(file).name for file in call.files if os.path.dirname(file) == self.directory]
        if not inside:
            return
        if call.name == "write":
            self.names[inside[0]].write(call.number, call.data)
        elif call.name == "truncate":
            self.names[inside[0]].write(call.number, None)
        elif call.name == "sync":
            self.names[inside[0]].sync()
        elif call.name != "open" or ("O_CREAT" in call.flags and inside[0] not in self.names):
            inode = Inode() if call.name == "open" else self.names[inside[0]]
            self.since.append((call.name, inside, inode))
            _name(self.names, *self.since[-1])

    def after_kill(self) -> dict[str, bytes]:
        """Return what the end of the process leaves."""
        return {name: bytes(inode.content) for name, inode in self.names.items()}

    def after_power_loss(self, rng: Random, share: float) -> dict[str, bytes]:
        """Return what a power loss may leave; names come and go in order."""
        names = dict(self.safe_names)
        for change in self.since[: len(self.since) if share == 1 else rng.randint(0, len(self.since))]:
            _name(names, *change)
        contents = {inode: inode.after_power_loss(rng, share) for inode in names.values()}
        return {name: contents[inode] for name, inode in names.items()}


def _name(names: dict[str, Inode], what: str, files: Sequence[str], inode: Inode) -> None:
    if what in ("unlink", "rename"):
        names.pop(files[0], None)
    if what != "unlink":
        names[files[-1]] = inode
