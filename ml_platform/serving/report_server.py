"""A small static server for the HTML reports: Dagster's and MLflow's webservers do not serve these files."""

from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote, urlsplit

from ml_platform import settings
from ml_platform.settings import Settings
from ml_platform.stores.reports import Reports


class _Pages(SimpleHTTPRequestHandler):
    """Files of one folder, always fresh, without listings of folders."""

    def end_headers(self) -> None:
        """A page is rewritten in place by each run, so browsers must ask again."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        """Refuse: ``index.html`` is the listing."""
        self.send_error(HTTPStatus.NOT_FOUND, "No such report")

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet: the reader's browser says what it could not open."""


class _StoredPages(BaseHTTPRequestHandler):
    """The same out of object storage; the listing is made when it is asked for."""

    def __init__(self, reports: Reports, root: Path, *args: Any) -> None:
        self._reports, self._root = reports, root
        super().__init__(*args)

    def do_GET(self) -> None:
        """Answer with a page."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Answer whether there is one."""
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet: the reader's browser says what it could not open."""

    def _answer(self, *, body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        try:
            content = self._content(parts)
        except FileNotFoundError:
            self.send_error(HTTPStatus.NOT_FOUND, "No such report")
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _content(self, parts: list[str]) -> bytes:
        if parts in ([""], ["index.html"]):
            return self._reports.index().encode()
        if not parts[-1].endswith(".html") or any(part in ("", ".", "..") for part in parts):
            raise FileNotFoundError
        return self._root.joinpath(*parts).read_bytes()


def report_server(config: Settings) -> ThreadingHTTPServer:
    """A server of ``config.reports`` at ``config.host`` and ``config.reports_port``, bound but not yet serving.

    Raises:
        OSError: the port is taken.
    """
    reports, address = Reports(config), (config.host, config.reports_port)
    if not isinstance(config.reports, PurePath):
        return ThreadingHTTPServer(address, partial(_StoredPages, reports, config.reports))
    reports.write_index()
    return ThreadingHTTPServer(address, partial(_Pages, directory=str(config.reports)))


def main() -> None:
    """Serve the reports of this process's settings until interrupted."""
    with report_server(settings.load()) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
