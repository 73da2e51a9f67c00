"""The offline store's options for Google's and Azure's storage, beside a server that has one file and knows both."""

from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import pytest
from feast import FileSource
from feast.data_format import DeltaFormat

from ml_platform_tests.stores.test_asof_store import DRIVER, RATES, STATS, asked, project, stats_view

pytestmark = [pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]

_ANY_KEY = "bm8gc2VjcmV0"


class _OneFile(BaseHTTPRequestHandler):
    """Answers a read of any object that is named as the file, or of a part of it."""

    content = b""

    def do_GET(self) -> None:
        if not unquote(self.path).partition("?")[0].endswith("/stats.parquet"):
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked_for, sent = self.headers.get("Range", self.headers.get("x-ms-range")), self.content
        if asked_for:
            first, _, last = asked_for.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(0, len(sent) - int(last))
            stop = int(last) + 1 if first and last else len(sent)
            sent = sent[start:stop]
        self.send_response(206 if asked_for else 200)
        if asked_for:
            self.send_header("Content-Range", f"bytes {start}-{start + len(sent) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(sent)))
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    file = BytesIO()
    STATS.write_parquet(file)
    _OneFile.content = file.getvalue()
    with ThreadingHTTPServer(("127.0.0.1", 0), _OneFile) as made:
        Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def options(scheme: str, server: str) -> dict[str, str]:
    if scheme == "gs":
        key = f'{{"gcs_base_url": "{server}", "disable_oauth": true, "client_email": "", "private_key": "", '
        return {"google_service_account_key": key + '"private_key_id": ""}', "allow_http": "true"}
    return {
        "azure_storage_account_name": "tests",
        "azure_storage_account_key": _ANY_KEY,
        "azure_storage_endpoint": server,
        "allow_http": "true",
    }


@pytest.mark.parametrize("place", ["gs://box", "az://box", "abfss://box@tests.dfs.core.windows.net", "http"])
def test_a_file_in_the_storage_of_another_cloud_is_read(tmp_path: Path, server: str, place: str) -> None:
    scheme, _, box = place.partition("://")
    store = project(tmp_path, storage_options=options(scheme, server) if box else {})
    path = f"{place if box else server}/a/stats.parquet"
    store.apply([DRIVER, stats_view(FileSource(path=path, timestamp_field="ts", created_timestamp_column="made"))])
    assert asked(store)["rate"].to_list() == RATES


@pytest.mark.parametrize(
    ("path", "form"), [("hdfs://a/b.parquet", None), ("ftp://a/b.parquet", None), ("https://a/b", DeltaFormat())]
)
def test_other_storage_is_refused_by_name(tmp_path: Path, path: str, form: DeltaFormat | None) -> None:
    source = FileSource(path=path, file_format=form, timestamp_field="ts")
    store = project(tmp_path)
    store.apply([DRIVER, stats_view(source)])
    with pytest.raises(NotImplementedError, match=rf"source '{path}' is not read here: .* s3://, s3a://, gs://, az://"):
        asked(store)
