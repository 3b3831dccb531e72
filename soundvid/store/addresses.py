"""What an address names: a folder, a bucket (s3://, gs://, az://), a web server, a repository of Hugging Face.

Credentials come from the environment, as the services' own tools have it, and never appear in a message.
"""

import os
from pathlib import Path
from urllib.parse import urlsplit

from soundvid.errors import DatasetError
from soundvid.store.bucket_objects import BucketObjects
from soundvid.store.http_objects import HttpObjects, HubObjects
from soundvid.store.objects import FolderObjects, Objects, shown_address

BUCKETS = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")


def open_objects(url: str, *, writing: bool = False) -> Objects:
    """The files below `url`, a folder or an address. Raises DatasetError, one line, for what is no such thing."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return FolderObjects(Path(os.path.abspath(url)))
    if scheme == "file":
        return FolderObjects(Path("/" + urlsplit(url).path.lstrip("/")))
    shown = shown_address(url)
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
