"""Published files in a bucket (s3://, gs://, az://) through obstore, which the extra `remote` installs.

Of the clients that were measured it spends the least CPU time per read, and it has a conditional put. Only its
synchronous calls are used.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from soundvid.errors import DatasetError, SoundvidError
from soundvid.store.objects import CHUNK, LONGEST_WAIT, TRIES, shown_address, trouble
from soundvid.util.extras import need

_obstore_process: int | None = None  # that has used obstore; it cannot be used in processes forked from it


class BucketObjects:
    """A bucket of an object store, through obstore."""

    parallel = 4

    def __init__(self, url: str) -> None:
        self._url, self.shown = url, shown_address(url)
        self._store: Any = None
        self._owner = 0
        with self._errors(""):
            self._open()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_store": None, "_owner": 0}

    def _open(self) -> Any:
        if self._owner != os.getpid():
            global _obstore_process
            need("remote", "obstore")
            if _obstore_process not in (None, os.getpid()):
                # Its threads were not copied by the fork, and it would wait for them for ever.
                raise DatasetError(
                    f"{self.shown}: a forked process cannot read a bucket after its parent did; give DataLoader "
                    "multiprocessing_context='spawn' (ClipLoader does)"
                )
            _obstore_process = os.getpid()
            from datetime import timedelta

            from obstore.store import from_url

            retry: Any = {"max_retries": TRIES, "retry_timeout": timedelta(seconds=LONGEST_WAIT)}
            try:
                self._store = from_url(self._url, retry_config=retry)
            except Exception as error:  # obstore's reasons are its own: a scheme, a name, a setting
                raise DatasetError(f"{self.shown}: cannot be opened ({trouble('', '', error).strerror})") from None
            self._owner = os.getpid()
        return self._store

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "there is no such file", f"{self.shown}/{key}") from None
        except (SoundvidError, OSError):
            raise
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "obstore":
                raise
            raise trouble(self.shown, key, error) from None

    def size(self, key: str) -> int | None:
        import obstore

        try:
            with self._errors(key):
                return obstore.head(self._open(), key)["size"]
        except FileNotFoundError:
            return None

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        import obstore

        with self._errors(key):
            if size is None:
                whole = obstore.get(self._open(), key, options={"range": {"offset": offset}} if offset else None)
                return bytes(whole.bytes())
            if size == 0:
                return b""
            data = bytes(obstore.get_range(self._open(), key, start=offset, length=size))
        if len(data) != size:
            raise trouble(self.shown, key, f"the server sent {len(data)} bytes, {size} were asked for")
        return data

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        import obstore

        with self._errors(key):
            options: Any = {"range": {"offset": offset}} if offset else None
            for piece in obstore.get(self._open(), key, options=options).stream(min_chunk_size=CHUNK):
                yield bytes(piece)

    def put(self, key: str, pieces: Iterable[bytes]) -> None:
        import obstore

        with self._errors(key):
            obstore.put(self._open(), key, iter(pieces), chunk_size=8 << 20, max_concurrency=2)

    def tagged(self, key: str) -> tuple[bytes, Any] | None:
        import obstore

        try:
            with self._errors(key):
                found = obstore.get(self._open(), key)
                tag = {k: found.meta[k] for k in ("e_tag", "version") if found.meta.get(k)}
                return bytes(found.bytes()), tag
        except FileNotFoundError:
            return None

    def swap(self, key: str, data: bytes, tag: Any) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._errors(key):
            try:
                obstore.put(self._open(), key, data, mode=tag or "create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def keys(self, prefix: str) -> list[str]:
        import obstore

        with self._errors(prefix):
            return sorted(found["path"] for page in obstore.list(self._open(), prefix=prefix) for found in page)

    def delete(self, key: str) -> None:
        import obstore

        with suppress(FileNotFoundError), self._errors(key):
            obstore.delete(self._open(), key)

    def flush(self) -> None:
        pass
