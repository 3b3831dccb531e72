"""Published files on a web server, read with urllib3, and on the Hugging Face Hub, whose files are read like them.

soundvid needs urllib3 anyway, so a light installation can pull and load. Writing to the Hub needs the extra `remote`.
"""

import errno
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from soundvid.errors import DatasetError, SoundvidError
from soundvid.store.objects import ATTEMPTS, CHUNK, LONGEST_WAIT, TRIES, pause, shown_address, trouble
from soundvid.util.extras import need
from soundvid.util.redact import credentials_of, without_user

CONNECTIONS = 16  # to one server
LONGEST_LIST = 256 << 20  # bytes of a list of versions, which is read before anything says how long it should be


class HttpObjects:
    """A web server that answers ranges. Read only."""

    parallel = 4

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        try:
            user = credentials_of(url)
            parts = urlsplit(without_user(url))
        except ValueError as error:
            raise DatasetError(f"{shown_address(url)}: is no address ({error}); check it and try again") from None
        self._path = parts.path.rstrip("/")
        self._base = urlunsplit((parts.scheme, parts.netloc, self._path, "", ""))
        self._query = f"?{parts.query}" if parts.query else ""  # a signature that counts for every file
        self.shown = shown_address(self._base)
        self._headers = dict(headers or {})
        if user is not None:
            import urllib3

            self._headers |= urllib3.make_headers(basic_auth=":".join(user))
        self._manager: Any = None
        self._host: Any = None
        self._owner = 0  # process whose they are
        self._redirected = False  # the server sends readers to another place, as the Hub does

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_manager": None, "_host": None, "_owner": 0}

    def _request(self, method: str, key: str, headers: dict[str, str], **options: Any) -> Any:
        import urllib3

        if self._owner != os.getpid():  # a forked worker must not read from its parent's connections
            retry = urllib3.Retry(
                total=TRIES,
                backoff_factor=0.1,
                status_forcelist=(429, 500, 502, 503, 504),
                raise_on_status=False,
                retry_after_max=LONGEST_WAIT,
            )
            timeout = urllib3.Timeout(connect=10, read=60)
            self._manager = urllib3.PoolManager(maxsize=CONNECTIONS, retries=retry, timeout=timeout)
            self._host = None
            self._owner = os.getpid()
        path = f"{quote(key)}{self._query}"
        given = {**self._headers, **headers}
        response = None
        broken: OSError | None = None
        try:
            # The host's own pool takes a fifth less time for a small answer than the manager, which parses the whole
            # address and merges settings for each; but only the manager follows redirections to another host.
            if not self._redirected:
                self._host = self._host or self._manager.connection_from_url(self._base)
                response = self._host.urlopen(method, f"{self._path}/{path}", headers=given, redirect=False, **options)
                if response.get_redirect_location():
                    response.close()
                    response, self._redirected = None, True
            if response is None:
                response = self._manager.request(method, f"{self._base}/{path}", headers=given, **options)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            broken = self._broken(key, error)
        if broken is not None:  # raised here, not above: urllib3's errors hold the address with its signature
            raise broken
        if response.status == 416:
            response.release_conn()
            text = "the file on the server is shorter than it should be (status 416)"
            raise trouble(self.shown, key, text, errno.ENOTSUP)
        if response.status in (404, 410):
            response.release_conn()
            raise FileNotFoundError(errno.ENOENT, "there is no such file", f"{self.shown}/{key}")
        if response.status >= 400:
            response.release_conn()
            code = errno.EACCES if response.status in (401, 403, 407, 451) else errno.EIO
            raise trouble(self.shown, key, f"the server answers {response.status} {response.reason or ''}", code)
        return response

    def _broken(self, key: str, error: Exception) -> OSError:
        reason = getattr(error, "reason", None) or error
        text = re.sub(r"^HTTPS?Connection(Pool)?\([^)]*\): ", "", str(reason)) or type(reason).__name__
        return trouble(self.shown, key, f"the connection failed ({text})")

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
            raise trouble(self.shown, key, f"the server sent {len(response.data)} bytes, {size} were asked for")
        return response.data

    def _check_range(self, response: Any, key: str, offset: int) -> None:
        stated = response.headers.get("Content-Range", "")
        if response.status != 206 or not stated.startswith(f"bytes {offset}-"):
            response.release_conn()
            text = (
                f"the server does not answer ranges (status {response.status}); pull the version, or use another server"
            )
            raise trouble(self.shown, key, text, errno.ENOTSUP)

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
        import urllib3

        for failures in range(1, ATTEMPTS + 1):
            try:
                response = self._request("GET", key, {"Accept-Encoding": "identity"}, preload_content=False)
            except FileNotFoundError:
                return None
            data = bytearray()
            try:
                for piece in response.stream(CHUNK, decode_content=False):
                    data += piece
                    if len(data) > LONGEST_LIST:
                        text = f"it is longer than {LONGEST_LIST >> 20} MB, which no list of versions is"
                        raise trouble(self.shown, key, text, errno.EFBIG)
                return bytes(data), response.headers.get("X-Repo-Commit")  # the Hub's tag; web servers have none
            except urllib3.exceptions.HTTPError as error:
                broken = self._broken(key, error)
            finally:
                response.release_conn() if response.length_remaining == 0 else response.close()
            if failures < ATTEMPTS:
                time.sleep(pause(failures))
        raise broken

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


class HubObjects(HttpObjects):
    """A dataset repository of the Hugging Face Hub: hf://OWNER/NAME[@REVISION]. Read over HTTP; written by commits.

    Files are uploaded as they come and appear together, with one commit that needs the repository to be as it was
    read: nobody sees a part of a version.
    """

    parallel = 2

    def __init__(self, url: str) -> None:
        match = re.fullmatch(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/*", url)
        if match is None:
            raise DatasetError(f"{shown_address(url)}: not the address of a dataset; give hf://OWNER/NAME[@REVISION]")
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
            raise trouble(self.shown, key, error) from None

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
            raise trouble(self.shown, "", "another commit came in between")


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
