"""Processes that tests start, and that leave nothing behind."""

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path


class Contained:
    """A process, and all that it starts, which is killed when it ends, as in a container.

    Signals go to no one else: a process keeps its number, and that of its group, until it is waited for, and it is
    waited for only once its group is killed.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> None:
        """What it prints is appended to ``log``.

        Raises:
            OSError: the command is not to be run.
        """
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._signals = threading.Lock()
        self._watch = threading.Thread(target=self._end_of_all, daemon=True)
        self._watch.start()

    @property
    def pid(self) -> int:
        """Its number, which is another's some time after it has ended."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; of a signal its negative number."""
        return self._process.returncode

    def send(self, kind: signal.Signals) -> None:
        """A signal to the process alone; to one that has ended, nothing."""
        with self._signals:
            if self._process.returncode is None:
                os.kill(self._process.pid, kind)

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended within the time."""
        self._watch.join(seconds)
        return not self._watch.is_alive()

    def end(self, patience: float) -> None:
        """SIGTERM, and SIGKILL after so many seconds."""
        self.send(signal.SIGTERM)
        if not self.wait(patience):
            self.send(signal.SIGKILL)
            self.wait()

    def _end_of_all(self) -> None:
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with self._signals:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
