"""An encoding under way: what is done so far, on disk beside the output, so that a kill at any moment loses little.

The folder `NAME.cinr.work` holds
    job.json             what is being encoded and how; another source or other settings do not resume it
    network.safetensors  the network's fit as it stands, or done
    chunks.log           one record a finished chunk; a record cut by a kill is dropped

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

_RECORD = struct.Struct("<QBII")  # chunk number, blank?, payload bytes, CRC-32C of the payload
_META = "__meta__"


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
        self._done: dict[int, tuple[int, int, bool]] = {}
        self._log = self._open_log()

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

    def _open_log(self) -> BinaryIO:
        """Open the log, list its whole records, and cut off what follows them."""
        log = open(self.folder / "chunks.log", "a+b")  # noqa: SIM115
        size = log.seek(0, os.SEEK_END)
        at = log.seek(0)
        while at + _RECORD.size <= size:
            number, blank, count, crc = _RECORD.unpack(log.read(_RECORD.size))
            payload = log.read(count) if at + _RECORD.size + count <= size else b""
            if len(payload) != count or crc32c.crc32c(payload) != crc:
                break
            self._done[number] = (at + _RECORD.size, count, bool(blank))
            at += _RECORD.size + count
        log.truncate(at)
        log.seek(at)
        return log

    def __contains__(self, number: int) -> bool:
        return number in self._done

    def __len__(self) -> int:
        return len(self._done)

    def put(self, number: int, payload: bytes, *, blank: bool) -> None:
        """A finished chunk: its payload, or the colour's bytes of a blank one."""
        at = self._log.seek(0, os.SEEK_END) + _RECORD.size
        self._log.write(_RECORD.pack(number, blank, len(payload), crc32c.crc32c(payload)) + payload)
        self._log.flush()
        self._done[number] = (at, len(payload), blank)

    def blank(self, number: int) -> bool:
        return self._done[number][2]

    def chunks(self) -> Iterator[tuple[int, bytes, bool]]:
        """(number, payload, blank) of every finished chunk, in order of number."""
        for number in sorted(self._done):
            at, count, blank = self._done[number]
            self._log.seek(at)
            yield number, self._log.read(count), blank

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

    def close(self) -> None:
        self._log.close()

    def discard(self) -> None:
        """The output is whole: the work folder goes."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)
