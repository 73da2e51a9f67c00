"""A small static server for the HTML reports: Dagster's and MLflow's webservers do not serve these files."""

from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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


def report_server(config: Settings) -> ThreadingHTTPServer:
    """A server of ``config.reports`` at ``config.host`` and ``config.reports_port``, bound but not yet serving.

    Raises:
        OSError: the port is taken.
    """
    Reports(config).write_index()
    return ThreadingHTTPServer((config.host, config.reports_port), partial(_Pages, directory=str(Path(config.reports))))


def main() -> None:
    """Serve the reports of this process's settings until interrupted."""
    with report_server(settings.load()) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
