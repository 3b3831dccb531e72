"""The files below an address: a folder, a bucket (s3://, gs://, az://), a web server, a repository of Hugging Face.

`open_objects` gives all of them the same few methods. Web servers are read with urllib3, which soundvid needs anyway,
so a light installation can pull and load; buckets through obstore (extra `remote`), which of the clients measured
spends the least CPU time per read and has a conditional put. Only its synchronous calls are used.
Credentials come from the environment, as the services' own tools have it, and never appear in a message.
"""

import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

from soundvid.errors import DatasetError, SoundvidError
from soundvid.util.extras import need
from soundvid.util.files import SteadyWriter, sync_to_disk
from soundvid.util.redact import clean_address, credentials_of, redact, without_user

CHUNK = 1 << 20  # bytes of a large file that are moved at a time
CONNECTIONS = 16  # to one server
_TRIES = 5  # of a request that a server refuses for the moment
ATTEMPTS = 6  # of a transfer, each with so many tries
_LONGEST_WAIT = 60  # seconds that a server's Retry-After counts for
BUCKETS = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")
_obstore_process: int | None = None  # that has used obstore; it cannot be used in processes forked from it
_SECRETS = re.compile(r"(?i)(secret|token|password|account_key|access_key|credential)")


class Objects(Protocol):
    """Files below an address. A missing file raises FileNotFoundError, other trouble OSError with a `strerror`."""

    shown: str  # the address without credentials
    parallel: int  # files that are best moved at once

    def size(self, key: str) -> int | None:
        """Bytes of a file; None where there is none."""

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        """`size` bytes from `offset` on; without `size` everything to the end. Fewer bytes are an OSError."""

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        """The bytes from `offset` on, in pieces."""

    def put(self, key: str, pieces: Iterable[bytes]) -> None:
        """Write a file, whole or not at all: if `pieces` raises, nothing appears."""

    def tagged(self, key: str) -> tuple[bytes, Any] | None:
        """A small file and a tag that distinguishes this state of it from others; None where there is none."""

    def swap(self, key: str, data: bytes, tag: Any) -> bool:
        """Replace a file if it still has `tag` (None: if there is none); whether it was replaced."""

    def keys(self, prefix: str) -> list[str]:
        """All files below `prefix`."""

    def delete(self, key: str) -> None:
        """Remove a file, if it is there."""

    def flush(self) -> None:
        """Bring out what was put so far; most backends do so at once."""


def open_objects(url: str, *, writing: bool = False) -> Objects:
    """The files below `url`, a folder or an address. Raises DatasetError, one line, for what is no such thing."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return FolderObjects(Path(os.path.abspath(url)))
    if scheme == "file":
        return FolderObjects(Path("/" + urlsplit(url).path.lstrip("/")))
    shown = _shown(url)
    if not rest.strip("/"):
        raise DatasetError(f"{shown}: names no place; give the whole address, such as {scheme}://NAME/folder")
    if scheme in ("http", "https"):
        if writing:
            raise DatasetError(f"{shown}: a web server is read only; publish to a folder, s3://, gs://, az:// or hf://")
        return HttpObjects(url)
    if scheme == "hf":
        return HubObjects(url)
    if scheme in BUCKETS:
        return BucketObjects(url)
    known = f"a folder, s3://, gs://, az://, {'' if writing else 'https://, '}or hf://"
    raise DatasetError(f"{shown}: {scheme}:// is not supported; give {known}")


def _shown(url: str) -> str:
    """An address as messages show it: without user, query and fragment, any of which may hold a credential."""
    return clean_address(url.partition("?")[0].partition("#")[0]).rstrip("/")


def _trouble(shown: str, key: str, error: object, code: int = errno.EIO) -> OSError:
    """An OSError of one line, without credentials."""
    text = re.sub(r"\s+", " ", redact(str(error).split("\nDebug source")[0])).strip()
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRETS.search(name):
            text = text.replace(value, "...")
    return OSError(code, text[:300] or type(error).__name__, f"{shown}/{key}")


def is_lasting(error: OSError) -> bool:
    """Whether asking the same again is in vain: the file is not there, access is refused, ranges are not known."""
    return error.errno in (errno.ENOENT, errno.EACCES, errno.ENOTSUP)


def pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 6 in all between ATTEMPTS attempts."""
    return min(5.0, 0.1 * 2.0**failures)


class FolderObjects:
    """A folder of this machine or of a network drive. Conditional writes hold a lock file."""

    parallel = 4

    def __init__(self, root: Path) -> None:
        self.root, self.shown = root, str(root)
        self._folders: set[Path] = set()  # whose new entries are not on the disk yet

    def size(self, key: str) -> int | None:
        try:
            return (self.root / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        with (self.root / key).open("rb") as file:
            there = os.fstat(file.fileno()).st_size
            if size is None:
                size = max(0, there - offset)
            if offset + size > there:
                raise OSError(errno.EIO, f"has {there} bytes, {offset + size} are needed", str(self.root / key))
            return os.pread(file.fileno(), size, offset)

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        with (self.root / key).open("rb", buffering=0) as file:
            file.seek(offset)
            while piece := file.read(CHUNK):
                yield piece

    def put(self, key: str, pieces: Iterable[bytes]) -> None:
        target = self.root / key
        self._make_folder(target.parent)
        hidden = target.with_name(f".{target.name}.{uuid4().hex}")  # other machines may write there, too
        try:
            with hidden.open("wb", buffering=0) as file:
                writer = SteadyWriter(file)
                for piece in pieces:
                    writer.write(piece)
                writer.finish()
            os.replace(hidden, target)
            self._folders.add(target.parent)
        finally:
            hidden.unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        new = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self._folders.update(p.parent for p in new)

    def tagged(self, key: str) -> tuple[bytes, Any] | None:
        try:
            data = (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return data, hashlib.sha256(data).hexdigest()

    def swap(self, key: str, data: bytes, tag: Any) -> bool:
        self._make_folder(self.root)
        handle = os.open(self.root / f".{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            now = self.tagged(key)
            if (now and now[1]) != tag:
                return False
            self.flush()  # what the new content may name
            self.put(key, [data])
            self.flush()
            return True
        finally:
            os.close(handle)

    def keys(self, prefix: str) -> list[str]:
        files = (p for p in (self.root / prefix).rglob("*") if p.is_file())  # also what a killed publisher left
        return sorted(p.relative_to(self.root).as_posix() for p in files)

    def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)
        with suppress(OSError):
            (self.root / key).parent.rmdir()  # if it was the last one

    def flush(self) -> None:
        while self._folders:
            with suppress(FileNotFoundError, PermissionError):  # removed meanwhile; not ours to read
                sync_to_disk(self._folders.pop())


class HttpObjects:
    """A web server that answers ranges. Read only."""

    parallel = 4

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        try:
            user = credentials_of(url)
            parts = urlsplit(without_user(url))
        except ValueError as error:
            raise DatasetError(f"{_shown(url)}: is no address ({error}); check it and try again") from None
        self._base = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
        self._query = f"?{parts.query}" if parts.query else ""  # a signature that counts for every file
        self.shown = _shown(self._base)
        self._headers = dict(headers or {})
        if user is not None:
            import urllib3

            self._headers |= urllib3.make_headers(basic_auth=":".join(user))
        self._pool: Any = None
        self._owner = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None, "_owner": 0}

    def _request(self, method: str, key: str, headers: dict[str, str], **options: Any) -> Any:
        import urllib3

        if self._owner != os.getpid():  # a forked worker must not read from its parent's connections
            retry = urllib3.Retry(
                total=_TRIES,
                backoff_factor=0.1,
                status_forcelist=(429, 500, 502, 503, 504),
                raise_on_status=False,
                retry_after_max=_LONGEST_WAIT,
            )
            timeout = urllib3.Timeout(connect=10, read=60)
            self._pool = urllib3.PoolManager(maxsize=CONNECTIONS, retries=retry, timeout=timeout)
            self._owner = os.getpid()
        url = f"{self._base}/{quote(key)}{self._query}"
        broken: OSError | None = None
        try:
            response = self._pool.request(method, url, headers={**self._headers, **headers}, **options)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            broken = self._broken(key, error)
        if broken is not None:  # raised here, not above: urllib3's errors hold the address with its signature
            raise broken
        if response.status == 416:
            response.release_conn()
            text = "the file on the server is shorter than it should be (status 416)"
            raise _trouble(self.shown, key, text, errno.ENOTSUP)
        if response.status in (404, 410):
            response.release_conn()
            raise FileNotFoundError(errno.ENOENT, "there is no such file", f"{self.shown}/{key}")
        if response.status >= 400:
            response.release_conn()
            code = errno.EACCES if response.status in (401, 403, 407, 451) else errno.EIO
            raise _trouble(self.shown, key, f"the server answers {response.status} {response.reason or ''}", code)
        return response

    def _broken(self, key: str, error: Exception) -> OSError:
        reason = getattr(error, "reason", None) or error
        text = re.sub(r"^HTTPS?Connection(Pool)?\([^)]*\): ", "", str(reason)) or type(reason).__name__
        return _trouble(self.shown, key, f"the connection failed ({text})")

    def size(self, key: str) -> int | None:
        try:
            length = self._request("HEAD", key, {"Accept-Encoding": "identity"}).headers.get("Content-Length")
        except FileNotFoundError:
            return None
        return int(length) if length and length.isdigit() else None

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        if size == 0:
            return b""
        asked = {"Range": f"bytes={offset}-{'' if size is None else offset + size - 1}"} if offset or size else {}
        response = self._request("GET", key, {**asked, "Accept-Encoding": "identity"})
        if asked:
            self._check_range(response, key, offset)
        if size is not None and len(response.data) != size:
            raise _trouble(self.shown, key, f"the server sent {len(response.data)} bytes, {size} were asked for")
        return response.data

    def _check_range(self, response: Any, key: str, offset: int) -> None:
        stated = response.headers.get("Content-Range", "")
        if response.status != 206 or not stated.startswith(f"bytes {offset}-"):
            response.release_conn()
            text = (
                f"the server does not answer ranges (status {response.status}); pull the version, or use another server"
            )
            raise _trouble(self.shown, key, text, errno.ENOTSUP)

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        import urllib3

        asked = {"Range": f"bytes={offset}-"} if offset else {}
        response = self._request("GET", key, {**asked, "Accept-Encoding": "identity"}, preload_content=False)
        try:
            ignored = offset if offset and response.status == 200 else 0  # a server without ranges sends all of it
            if offset and not ignored:
                self._check_range(response, key, offset)
            for piece in response.stream(CHUNK, decode_content=False):
                if ignored < len(piece):
                    yield piece[ignored:]
                ignored = max(0, ignored - len(piece))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise error if isinstance(error, OSError) and error.strerror else self._broken(key, error) from None
        finally:
            # What is not read to its end must not be taken for the answer to the next question.
            response.release_conn() if response.length_remaining == 0 else response.close()

    def tagged(self, key: str) -> tuple[bytes, Any] | None:
        try:
            return self.read(key), None
        except FileNotFoundError:
            return None

    def put(self, key: str, pieces: Iterable[bytes]) -> None:
        raise OSError(errno.EROFS, "a web server is read only", f"{self.shown}/{key}")

    def swap(self, key: str, data: bytes, tag: Any) -> bool:
        raise OSError(errno.EROFS, "a web server is read only", f"{self.shown}/{key}")

    def keys(self, prefix: str) -> list[str]:
        raise OSError(errno.EROFS, "a web server lists no files", f"{self.shown}/{prefix}")

    def delete(self, key: str) -> None:
        raise OSError(errno.EROFS, "a web server is read only", f"{self.shown}/{key}")

    def flush(self) -> None:
        pass


class BucketObjects:
    """A bucket of an object store, through obstore."""

    parallel = 4

    def __init__(self, url: str) -> None:
        self._url, self.shown = url, _shown(url)
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

            retry: Any = {"max_retries": _TRIES, "retry_timeout": timedelta(seconds=_LONGEST_WAIT)}
            try:
                self._store = from_url(self._url, retry_config=retry)
            except Exception as error:  # obstore's reasons are its own: a scheme, a name, a setting
                raise DatasetError(f"{self.shown}: cannot be opened ({_trouble('', '', error).strerror})") from None
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
            raise _trouble(self.shown, key, error) from None

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
            raise _trouble(self.shown, key, f"the server sent {len(data)} bytes, {size} were asked for")
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


class HubObjects(HttpObjects):
    """A dataset repository of the Hugging Face Hub: hf://OWNER/NAME[@REVISION]. Read over HTTP; written by commits.

    Files are uploaded as they come and appear together, with one commit that needs the repository to be as it was
    read: nobody sees a part of a version.
    """

    parallel = 2

    def __init__(self, url: str) -> None:
        match = re.fullmatch(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/*", url)
        if match is None:
            raise DatasetError(f"{_shown(url)}: not the address of a dataset; give hf://OWNER/NAME[@REVISION]")
        self.repository, self.revision = match[1], match[2] or "main"
        self._endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        token = _hub_token()
        base = f"{self._endpoint}/datasets/{self.repository}/resolve/{quote(self.revision, safe='')}"
        super().__init__(base, {"Authorization": f"Bearer {token}"} if token else None)
        self.shown = f"hf://{self.repository}" + (f"@{match[2]}" if match[2] else "")
        self._waiting: dict[str, Any] = {}  # uploaded or deleted, and not yet committed
        self._files: list[Any] = []  # that the commit is to send

    def _api(self) -> Any:
        need("remote", "huggingface_hub")
        from huggingface_hub import HfApi

        return HfApi(endpoint=self._endpoint, token=_hub_token() or False)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except (SoundvidError, FileNotFoundError):
            raise
        except Exception as error:  # those of its HTTP client, too, which differ between its versions
            if isinstance(error, OSError) and type(error).__module__ == "builtins":
                raise
            raise _trouble(self.shown, key, error) from None

    def put(self, key: str, pieces: Iterable[bytes]) -> None:
        from tempfile import NamedTemporaryFile

        api = self._api()
        from huggingface_hub import CommitOperationAdd

        file = NamedTemporaryFile(suffix=".part")  # noqa: SIM115  (deleted when nothing refers to it any more)
        for piece in pieces:
            file.write(piece)
        file.flush()
        with self._errors(key):
            operation = CommitOperationAdd(key, file.name)
            # Of a large file this sends the bytes now; the operation then names them only.
            api.preupload_lfs_files(self.repository, [operation], repo_type="dataset", revision=self.revision)
        self._waiting[key] = operation
        if not getattr(operation, "_is_uploaded", False):
            self._files.append(file)

    def tagged(self, key: str) -> tuple[bytes, Any] | None:
        try:
            response = self._request("GET", key, {"Accept-Encoding": "identity"})
        except FileNotFoundError:
            return None
        return response.data, response.headers.get("X-Repo-Commit")

    def swap(self, key: str, data: bytes, tag: Any) -> bool:
        api = self._api()
        from huggingface_hub import CommitOperationAdd

        if tag is None:
            with self._errors(key):
                tag = api.repo_info(self.repository, repo_type="dataset", revision=self.revision).sha
            if self.tagged(key) is not None:
                return False
        return self._commit([CommitOperationAdd(key, data)], key, tag)

    def _commit(self, more: list[Any], what: str, parent: str | None) -> bool:
        operations = [*self._waiting.values(), *more]
        if not operations:
            return True
        try:
            with self._errors(what):
                self._api().create_commit(
                    self.repository,
                    operations,
                    commit_message=f"soundvid: {what}",
                    repo_type="dataset",
                    revision=self.revision,
                    parent_commit=parent,
                )
        except OSError as error:
            if re.search(r"\b(409|412)\b", error.strerror or ""):  # somebody else committed
                return False
            raise
        self._waiting.clear()
        self._files.clear()
        return True

    def keys(self, prefix: str) -> list[str]:
        with self._errors(prefix):
            files = self._api().list_repo_files(self.repository, repo_type="dataset", revision=self.revision)
        return sorted(f for f in files if f.startswith(f"{prefix}/"))

    def delete(self, key: str) -> None:
        self._api()
        from huggingface_hub import CommitOperationDelete

        self._waiting[key] = CommitOperationDelete(key)

    def flush(self) -> None:
        if not self._commit([], "files for other readers", None):
            raise _trouble(self.shown, "", "another commit came in between")


def _hub_token() -> str | None:
    """The token that Hugging Face's own tools would use."""
    if os.environ.get("HF_TOKEN"):
        return os.environ["HF_TOKEN"].strip()
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    try:
        return Path(os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")).read_text().strip() or None
    except OSError:
        return None
