"""An encoding under way: what is done so far, on disk beside the output, so that a kill at any moment loses little.

The folder `NAME.cinr.work` holds
    job.json             what is being encoded and how; another source or other settings do not resume it
    *.log                one record a finished chunk, or whatever a model numbers; a record cut by a kill is dropped
    network.checked      the networks' fit as it stands, or done: safetensors, after their CRC-32C
    *.json               what was found and measured, after its CRC-32C
    *.parts              of octaves: what later stages need of earlier ones (`encode_units`)

Nothing stands under the output's name until the file is whole.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import crc32c
import numpy as np
from safetensors.numpy import load, save

from inrwsi.errors import Unreachable, UsageError, unwritten

_HEAD, _CRC = struct.Struct("<QBI"), struct.Struct("<I")  # number, flag, payload bytes; CRC-32C of head and payload
_RECORD_BYTES = _HEAD.size + _CRC.size  # beside its payload
_META = "__meta__"
_CHUNKS = "chunks"
_KNOWN = "job.json"
_NETWORK = "network.checked"


class Log:
    """Records that are only ever added: number, flag and payload, each number once. For one thread.

    Opening it lists its whole records, and cuts off what follows them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[int, tuple[int, int, bool]] = {}  # where the record begins, bytes of its payload, flag
        self._file: BinaryIO = open(path, "a+b")  # noqa: SIM115 - open for the life of the job
        size, at = self._file.seek(0, os.SEEK_END), self._file.seek(0)
        while at + _RECORD_BYTES <= size:
            self._file.seek(at)
            number, flag, count = _HEAD.unpack(self._file.read(_HEAD.size))
            if at + _RECORD_BYTES + count > size or self._payload(at, count) is None:
                break
            self._done[number] = (at, count, bool(flag))
            at += _RECORD_BYTES + count
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
        at, head = self._file.seek(0, os.SEEK_END), _HEAD.pack(number, flag, len(payload))
        self._file.write(head + _CRC.pack(crc32c.crc32c(payload, crc32c.crc32c(head))) + payload)
        self._file.flush()
        self._done[number] = (at, len(payload), flag)

    def get(self, number: int) -> bytes:
        """The payload of a record. Raises UsageError where it is not what was written."""
        at, count, _ = self._record(number)
        payload = self._payload(at, count)
        if payload is None:
            raise self._damaged()
        return payload

    def _payload(self, at: int, count: int) -> bytes | None:
        """Of the record there, of so many bytes; None where it is not what was written."""
        self._file.seek(at)
        raw = self._file.read(_RECORD_BYTES + count)
        head, crc, payload = raw[: _HEAD.size], raw[_HEAD.size : _RECORD_BYTES], raw[_RECORD_BYTES:]
        # The head counts too: zeros, which a power cut leaves at a file's end, would else be a record of nothing.
        whole = len(payload) == count and _CRC.unpack(crc)[0] == crc32c.crc32c(payload, crc32c.crc32c(head))
        return payload if whole else None

    def _record(self, number: int) -> tuple[int, int, bool]:
        try:
            return self._done[number]
        except KeyError:
            raise self._damaged() from None

    def _damaged(self) -> UsageError:
        return UsageError(f"{self.path}: is damaged; encode again with --overwrite")

    def flag(self, number: int) -> bool:
        return self._record(number)[2]

    def size(self, number: int) -> int:
        """Bytes of a record's payload."""
        return self._record(number)[1]

    def close(self) -> None:
        self._file.close()


class Job:
    """The work folder of one encoding. A context manager: left by `Unreachable` the folder goes, else it stays.

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
        self._held: int | None = None
        known = self.folder / _KNOWN
        try:
            self._claim()
            if resume and known.exists():
                self._check_same(known, about)
            elif known.exists() and not overwrite:
                raise UsageError(
                    f"{self.folder}: holds an interrupted encoding; --resume goes on with it, --overwrite begins again"
                )
            else:
                self._empty(known)
                write_whole(known, json.dumps(about, sort_keys=True, indent=1).encode())
            self.log(_CHUNKS)
        except OSError as error:
            self.close()
            raise unwritten(error)(
                f"{self.folder}: cannot be written ({error.strerror}); choose another output"
            ) from None
        except BaseException:
            self.close()
            raise

    def _claim(self) -> None:
        """Hold the folder for this process alone, until `close` or its end, however that comes."""
        self.folder.mkdir(parents=False, exist_ok=True)
        self._held = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(self._held), os.stat(self.folder))  # not one that was removed meanwhile
        except (BlockingIOError, FileNotFoundError):
            mine = False
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            mine = True  # a file system without locks: nothing can be known
        if not mine:
            raise UsageError(
                f"{self.folder}: another process is encoding to this output; wait for it, or choose another output"
            )

    def _empty(self, known: Path) -> None:
        """Remove what an earlier encoding left; the folder itself is what is locked."""
        if not known.exists() and any(entry.name != f"{_KNOWN}.partial" for entry in self.folder.iterdir()):
            raise UsageError(f"{self.folder}: is there and is no encoding's; remove it, or choose another output")
        self._remove_entries()

    def _remove_entries(self) -> None:
        """All that lies in the folder; last what says whose the others are."""
        for entry in sorted(self.folder.iterdir(), key=lambda entry: entry.name == _KNOWN):
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    @staticmethod
    def _check_same(known: Path, about: dict[str, Any]) -> None:
        try:
            before = json.loads(known.read_text())
        except ValueError:
            before = None
        if not isinstance(before, dict):
            raise UsageError(f"{known}: is not readable; encode again with --overwrite")
        for key in sorted(before.keys() | about.keys()):
            if before.get(key) != about.get(key):
                raise UsageError(
                    f"{known.parent}: was begun {_setting(key, before)}, now it is {_setting(key, about)}; use "
                    "the same settings, or encode again with --overwrite"
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
        _write_checked(self.folder / _NETWORK, save({k: np.ascontiguousarray(v) for k, v in packed.items()}))

    def load_network(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The network's checkpoint; None where there is none. Raises UsageError where it is not what was saved."""
        raw = _read_checked(self.folder / _NETWORK)
        if raw is None:
            return None
        tensors = load(raw)
        return tensors, json.loads(tensors.pop(_META).tobytes())

    def drop_network(self) -> None:
        """Remove the network's checkpoint, if there is one."""
        (self.folder / _NETWORK).unlink(missing_ok=True)

    def save_state(self, name: str, state: dict[str, Any]) -> None:
        """Replace what `load_state` gives, whole. JSON values."""
        _write_checked(self.folder / f"{name}.json", json.dumps(state, sort_keys=True).encode())

    def load_state(self, name: str) -> dict[str, Any]:
        """What was saved under that name; empty where nothing was. Raises UsageError where it is not what was saved."""
        raw = _read_checked(self.folder / f"{name}.json")
        state: dict[str, Any] = {} if raw is None else json.loads(raw)
        return state

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Then nothing was interrupted: what there is does not serve another target.
        if isinstance(error, Unreachable):
            self.discard()
        self.close()

    def close(self) -> None:
        for log in self._logs.values():
            log.close()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def discard(self) -> None:
        """The output is whole, or cannot be: the work folder goes."""
        with suppress(OSError):
            self._remove_entries()
            self.folder.rmdir()  # while it is held: another's would not be this one's to remove
        self.close()


def _setting(key: str, about: dict[str, Any]) -> str:
    value = about.get(key)
    return f"without {key}" if value is None else f"with {key} {value}"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def _write_checked(path: Path, data: bytes) -> None:
    """Write what `_read_checked` gives, whole: after its CRC-32C in hexadecimal, and a space."""
    write_whole(path, b"%08x %s" % (crc32c.crc32c(data), data))


def _read_checked(path: Path) -> bytes | None:
    """What was written there; None where nothing was. Raises UsageError where it is something else."""
    if not path.exists():
        return None
    crc, _, data = path.read_bytes().partition(b" ")
    if crc != b"%08x" % crc32c.crc32c(data):
        raise UsageError(f"{path}: is damaged; encode again with --overwrite")
    return data
