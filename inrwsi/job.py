"""An encoding under way: what is done so far, on disk beside the output, so that a kill at any moment loses little.

The folder `NAME.cinr.work` holds
    job.json             what is being encoded and how; another source or other settings do not resume it
    *.log                one record a finished chunk, or whatever a model numbers; a record cut by a kill is dropped
    network.safetensors  of cinr: the network's fit as it stands, or done
    *.json, *.parts      of octaves: what was measured, and what later stages need of earlier ones (`encode_units`)

Nothing stands under the output's name until the file is whole.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import crc32c
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from inrwsi.errors import UsageError

_RECORD = struct.Struct("<QBII")  # number, flag, payload bytes, CRC-32C of the payload
_META = "__meta__"
_CHUNKS = "chunks"


class Log:
    """Records that are only ever added: number, flag and payload, each number once. For one thread.

    Opening it lists its whole records, and cuts off what follows them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[int, tuple[int, int, bool]] = {}
        self._file: BinaryIO = open(path, "a+b")  # noqa: SIM115 - open for the life of the job
        size, at = self._file.seek(0, os.SEEK_END), self._file.seek(0)
        while at + _RECORD.size <= size:
            number, flag, count, crc = _RECORD.unpack(self._file.read(_RECORD.size))
            payload = self._file.read(count) if at + _RECORD.size + count <= size else b""
            if len(payload) != count or crc32c.crc32c(payload) != crc:
                break
            self._done[number] = (at + _RECORD.size, count, bool(flag))
            at += _RECORD.size + count
        self._file.truncate(at)
        self._file.seek(at)

    def __contains__(self, number: int) -> bool:
        return number in self._done

    def __len__(self) -> int:
        return len(self._done)

    def numbers(self) -> list[int]:
        """Of all records, ascending."""
        return sorted(self._done)

    def put(self, number: int, payload: bytes, *, flag: bool = False) -> None:
        """Add a record. A kill afterwards does not lose it."""
        at = self._file.seek(0, os.SEEK_END) + _RECORD.size
        self._file.write(_RECORD.pack(number, flag, len(payload), crc32c.crc32c(payload)) + payload)
        self._file.flush()
        self._done[number] = (at, len(payload), flag)

    def get(self, number: int) -> bytes:
        """The payload of a record."""
        at, count, _ = self._done[number]
        self._file.seek(at)
        return self._file.read(count)

    def flag(self, number: int) -> bool:
        return self._done[number][2]

    def size(self, number: int) -> int:
        """Bytes of a record's payload."""
        return self._done[number][1]

    def close(self) -> None:
        self._file.close()


class Job:
    """The work folder of one encoding.

    Args:
        out: the output file.
        about: what is encoded and how, as JSON values.
        resume: go on from what is there, if it is of the same `about`.
        overwrite: begin again where something is there.

    Raises:
        UsageError: there is something to resume and nobody said what to do with it, or it is of another source or
            other settings, or the folder cannot be made.
    """

    def __init__(self, out: Path, about: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        self.folder = out.with_name(out.name + ".work")
        self._logs: dict[str, Log] = {}
        known = self.folder / "job.json"
        try:
            if resume and known.exists():
                self._check_same(known, about)
            elif known.exists() and not overwrite:
                raise UsageError(
                    f"{self.folder}: holds an interrupted encoding; --resume goes on with it, --overwrite begins again"
                )
            else:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=False)
                write_whole(known, json.dumps(about, sort_keys=True, indent=1).encode())
        except OSError as error:
            raise UsageError(f"{self.folder}: cannot be written ({error.strerror}); choose another output") from None
        self.log(_CHUNKS)

    @staticmethod
    def _check_same(known: Path, about: dict[str, Any]) -> None:
        try:
            before = json.loads(known.read_text())
        except ValueError:
            raise UsageError(f"{known}: is not readable; encode again with --overwrite") from None
        for key in sorted(before.keys() | about.keys()):
            if before.get(key) != about.get(key):
                raise UsageError(
                    f"{known.parent}: was begun with {key} {before.get(key)}, now it is {about.get(key)}; "
                    "use the same settings, or encode again with --overwrite"
                )

    def log(self, name: str) -> Log:
        """The log of that name, with what an earlier run left in it."""
        if name not in self._logs:
            self._logs[name] = Log(self.folder / f"{name}.log")
        return self._logs[name]

    def drop_log(self, name: str) -> None:
        """Remove a log that nothing needs any more."""
        if name in self._logs:
            self._logs.pop(name).close()
        (self.folder / f"{name}.log").unlink(missing_ok=True)

    def __contains__(self, number: int) -> bool:
        return number in self.log(_CHUNKS)

    def __len__(self) -> int:
        return len(self.log(_CHUNKS))

    def put(self, number: int, payload: bytes, *, blank: bool) -> None:
        """A finished chunk: its payload, or the colour's bytes of a blank one."""
        self.log(_CHUNKS).put(number, payload, flag=blank)

    def blank(self, number: int) -> bool:
        return self.log(_CHUNKS).flag(number)

    def get(self, number: int) -> bytes:
        """What `put` was given."""
        return self.log(_CHUNKS).get(number)

    def chunks(self) -> Iterator[tuple[int, bytes, bool]]:
        """(number, payload, blank) of every finished chunk, in order of number."""
        log = self.log(_CHUNKS)
        for number in log.numbers():
            yield number, log.get(number), log.flag(number)

    def save_network(self, tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """Replace the network's checkpoint, whole."""
        packed = {**tensors, _META: np.frombuffer(json.dumps(meta).encode(), np.uint8)}
        write_whole(self.folder / "network.safetensors", save({k: np.ascontiguousarray(v) for k, v in packed.items()}))

    def load_network(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The network's checkpoint; None where there is none."""
        path = self.folder / "network.safetensors"
        if not path.exists():
            return None
        try:
            tensors = load(path.read_bytes())
            return tensors, json.loads(tensors.pop(_META).tobytes())
        except (SafetensorError, KeyError, ValueError):
            raise UsageError(f"{path}: is damaged; encode again with --overwrite") from None

    def drop_network(self) -> None:
        """Remove the network's checkpoint, if there is one."""
        (self.folder / "network.safetensors").unlink(missing_ok=True)

    def save_state(self, name: str, state: dict[str, Any]) -> None:
        """Replace what `load_state` gives, whole. JSON values."""
        write_whole(self.folder / f"{name}.json", json.dumps(state, sort_keys=True).encode())

    def load_state(self, name: str) -> dict[str, Any]:
        """What was saved under that name; empty where nothing was."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            return {}
        try:
            state = json.loads(path.read_text())
        except ValueError:
            state = None
        if not isinstance(state, dict):
            raise UsageError(f"{path}: is damaged; encode again with --overwrite")
        return state

    def close(self) -> None:
        for log in self._logs.values():
            log.close()

    def discard(self) -> None:
        """The output is whole: the work folder goes."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)
