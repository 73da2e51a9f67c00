"""The Feast repository of a home: what it declares, known without importing Feast, and ``apply``.

Belongs here: the manifest and when it is read anew. Features themselves are :mod:`ml_platform.stores.features`.
"""

import hashlib
import subprocess
import sys
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path

import yaml

from ml_platform.core.feature_manifest import FeatureManifest
from ml_platform.settings import Settings
from ml_platform.stores.files import write_whole
from ml_platform.stores.repo_reader import FeatureRepoError

_REDIS_STORE = "ml_platform.stores.redis_store.RedisUrlOnlineStore"


class FeatureRepository:
    """The feature repository of these settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def manifest(self) -> FeatureManifest:
        """Views and services; read anew when a file of the repository or Feast's version changed.

        A registry that belongs to this home alone is brought up to date by the same process, one that is shared when
        features are first read or written.

        Raises:
            FeatureRepoError: the repository is not usable; the message says why.
        """
        fingerprint = self._fingerprint()
        path, made_before = self._manifest_file(fingerprint), self._kept_manifest(fingerprint)
        if not path.is_file() and made_before.is_file():
            return FeatureManifest.model_validate_json(made_before.read_text())
        if not path.is_file() and self._settings.feature_store_yaml is None and not self._settings.feast_registry_url:
            self.apply()
        if not path.is_file():
            self._read_repo("manifest", path)
        return FeatureManifest.model_validate_json(path.read_text())

    def keep_manifest(self) -> Path:
        """Put the manifest beside the repository's files, for processes whose home is empty; where it is.

        An image is built with it: each pod would else import Feast, for seven seconds, to know its assets.
        """
        kept = self._kept_manifest(self._fingerprint())
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(self.manifest().model_dump_json(indent=1))
        return kept

    def apply(self) -> None:
        """Register the repository's definitions, as ``feast apply`` does; nothing if they are as last applied.

        Raises:
            FeatureRepoError: the repository is not usable, or a view's entities do not match its columns.
        """
        marker, state = self._settings.feast_home / "applied", self._state()
        if marker.is_file() and marker.read_text() == state:
            return
        self._read_repo("apply", self._manifest_file(self._fingerprint()))
        marker.write_text(state)

    def _manifest_file(self, fingerprint: str) -> Path:
        return self._settings.feast_home / "manifests" / f"{fingerprint}.json"

    def _kept_manifest(self, fingerprint: str) -> Path:
        return self._settings.feature_repo / ".manifests" / f"{fingerprint}.json"

    @cached_property
    def _config_file(self) -> Path:
        """The ``feature_store.yaml`` in force; one of this home is written if none was given."""
        if self._settings.feature_store_yaml is not None:
            return self._settings.feature_store_yaml
        home = self._settings.feast_home
        config = yaml.safe_load((self._settings.feature_repo / "feature_store.yaml").read_text())
        if self._settings.feast_registry_url:
            config["registry"] = {
                "registry_type": "sql",
                "path": self._settings.feast_registry_url,
                "sqlalchemy_config_kwargs": {"echo": False, "pool_pre_ping": True},
            }
        else:
            config["registry"]["path"] = str(home / "registry.db")
        if self._settings.redis_url:
            config["online_store"] = {"type": _REDIS_STORE, "url": self._settings.redis_url}
        else:
            config["online_store"]["path"] = str(home / "online.sqlite")
        # Options of the storage may be secrets: whoever reads this file has them in the environment.
        config["offline_store"]["lake"] = self._settings.lake_uri
        path = home / "feature_store.yaml"
        text = yaml.safe_dump(config, sort_keys=False)
        before = path.read_text() if path.is_file() else ""
        if before and yaml.safe_load(before)["registry"]["path"] != config["registry"]["path"]:
            # A copy of a home, or one that moved: its registry names the old place, whose tables Feast would drop.
            (home / "registry.db").unlink(missing_ok=True)
        if before != text:
            write_whole(path, text.encode(), mode=0o600)
        return path

    def _fingerprint(self) -> str:
        """A digest of the repository's files and Feast's version."""
        content = hashlib.sha256(_feast_version().encode())
        repo = self._settings.feature_repo
        for path in [*sorted(repo.rglob("*.py")), repo / ".feastignore"]:
            if path.is_file():
                content.update(f"{path.relative_to(repo)}\0".encode() + path.read_bytes())
        return content.hexdigest()[:16]

    def _state(self) -> str:
        """What tells whether a registry holds the definitions as they stand."""
        return f"{self._fingerprint()} {hashlib.sha256(self._config_file.read_bytes()).hexdigest()[:16]}"

    def _read_repo(self, command: str, manifest: Path) -> None:
        paths = map(str, (self._settings.feature_repo, self._config_file, manifest))
        process = subprocess.run(
            [sys.executable, "-m", "ml_platform.stores.repo_reader", command, *paths, self._state()],
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode:
            raise FeatureRepoError(f"{self._settings.feature_repo}: {process.stderr.strip() or process.stdout.strip()}")


@cache
def _feast_version() -> str:
    return version("feast")
