"""A zip file of JSON from anybody: read one entry at a time, and none that is too large."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Self

from dgpo_cli.core.codec import parsed
from dgpo_cli.core.errors import DataError
from dgpo_cli.core.numbers import size
from dgpo_cli.core.text import cut

MOST_ENTRY = 256 * 2**20  # bytes of one entry, unpacked
MOST_ALL = 16 * 2**30  # of all entries that are read
MOST_ENTRIES = 500_000
_ZSTD = 93  # compression method of inspect_ai since 2026; the zipfile of Python 3.13 lacks it
_LOCAL = struct.Struct("<26xHH")  # a local header up to the lengths of name and extra field
_LOCAL_SIGN = b"PK\x03\x04"


class Archive:
    """The entries of a zip file by name; of two with one name the last, as zip readers have it."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            DataError: it is not a zip file, or has too many entries.
        """
        self._path, self._read = path, 0
        self._file: BinaryIO = path.open("rb")
        try:
            self._zip = zipfile.ZipFile(self._file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            self._file.close()
            raise DataError(f"{path}: a damaged zip file: {cut(str(error), 120)}") from error
        self._entries = {entry.filename: entry for entry in self._zip.infolist()}
        if len(self._entries) > MOST_ENTRIES:
            self.close()
            raise DataError(f"{path}: has more than {MOST_ENTRIES:,} entries; split it")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def json(self, name: str) -> Any:
        """Return the JSON of an entry; NaN in it is null.

        Raises:
            DataError: it is missing, damaged, too large or not JSON.
        """
        if name not in self._entries:
            raise DataError(f"{self._path}: has no {name}")
        data = self._unpacked(self._entries[name])
        return parsed(data, where=f"{self._path}:{name}", constants=False)

    def _unpacked(self, entry: zipfile.ZipInfo) -> bytes:
        where = f"{self._path}:{entry.filename}"
        try:
            if entry.compress_type == _ZSTD:
                data = self._zstd(entry)
            else:
                with self._zip.open(entry) as stream:
                    data = stream.read(MOST_ENTRY + 1)
        except (
            zipfile.BadZipFile,
            zlib.error,
            OSError,
            EOFError,
            RuntimeError,
            ValueError,
        ) as error:
            # NotImplementedError, of another method or an encrypted entry, is a RuntimeError
            raise DataError(
                f"{where}: is damaged or not readable: {cut(str(error), 120)}"
            ) from error
        self._read += len(data)
        if len(data) > MOST_ENTRY or self._read > MOST_ALL:
            most = MOST_ENTRY if len(data) > MOST_ENTRY else MOST_ALL
            raise DataError(f"{where}: unpacks to more than {size(most)}")
        return data

    def _zstd(self, entry: zipfile.ZipInfo) -> bytes:
        import pyarrow as pa

        self._file.seek(entry.header_offset)
        head = self._file.read(_LOCAL.size)
        if len(head) < _LOCAL.size or not head.startswith(_LOCAL_SIGN) or entry.flag_bits & 1:
            raise ValueError("no entry where the index says")
        self._file.seek(sum(_LOCAL.unpack(head)), 1)
        packed = self._file.read(entry.compress_size)
        with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
            data: bytes = stream.read(MOST_ENTRY + 1)
        if len(data) <= MOST_ENTRY and zlib.crc32(data) != entry.CRC:
            raise ValueError("its checksum does not fit")
        return data

    def close(self) -> None:
        self._zip.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
