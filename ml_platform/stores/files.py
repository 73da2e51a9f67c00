"""Files that a reader finds whole, in folders and in object storage."""

import os
import tempfile
from pathlib import Path, PurePath


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write so that a reader sees the old file or the new one, never a part; folders are made.

    On a disk it is written beside its place under a hidden name that ends in ``.tmp`` and then moved there. Object
    storage shows an object when it is whole.
    """
    if not isinstance(path, PurePath):
        path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(draft).chmod(mode)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
