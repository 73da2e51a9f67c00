"""A platform on shared stores: Postgres, Redis and object storage on this machine, by settings alone."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_platform.settings import child_environment
from ml_platform_tests.servers.certificates import Certificates, certificates
from ml_platform_tests.servers.object_storage import Bucket, object_storage
from ml_platform_tests.servers.postgres import Postgres, binary, postgres
from ml_platform_tests.servers.redis_server import RedisServer, redis_server

_BUILD = (
    "from ml_platform.settings import load; from ml_platform.stores.instance import prepare_dagster_home; "
    "from ml_platform_tests.small_home import build_home; build_home(prepare_dagster_home(load()))"
)
DATABASES = ("dagster", "mlflow", "optuna", "feast")


@dataclass(frozen=True)
class SharedStores:
    """Three servers with all that a platform keeps."""

    postgres: Postgres
    redis: RedisServer
    bucket: Bucket
    secrets: Path
    tls: Certificates | None = None

    def environment(self, home: Path) -> dict[str, str]:
        """The settings of a process whose own folder is ``home``."""
        password = self.secrets / "redis"
        password.write_text(self.redis.password)
        return {
            "ML_PLATFORM_HOME": str(home),
            "ML_PLATFORM_DAGSTER_STORAGE_URL": self.postgres.url("dagster"),
            "ML_PLATFORM_MLFLOW_TRACKING_URI": self.postgres.url("mlflow"),
            "ML_PLATFORM_MLFLOW_ARTIFACTS_URI": f"{self.bucket.url}/mlflow",
            "ML_PLATFORM_OPTUNA_URL": self.postgres.url("optuna"),
            "ML_PLATFORM_FEAST_REGISTRY_URL": self.postgres.url("feast"),
            "ML_PLATFORM_REDIS_URL": self.redis.url,
            "ML_PLATFORM_REDIS_PASSWORD_FILE": str(password),
            "ML_PLATFORM_LAKE_URI": f"{self.bucket.url}/lake",
            "ML_PLATFORM_LANDING": f"{self.bucket.url}/landing",
            "ML_PLATFORM_REPORTS": f"{self.bucket.url}/reports",
            "ML_PLATFORM_COMPUTE_LOGS_URI": f"{self.bucket.url}/compute-logs",
            "PGPASSFILE": str(self.postgres.passfile),
            **self.bucket.storage_options,
            **self._trusted(),
        }

    def _trusted(self) -> dict[str, str]:
        if self.tls is None:
            return {}
        authority = str(self.tls.authority)
        return {
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": authority,
            "ML_PLATFORM_REDIS_CA_FILE": authority,
            # boto3 and s3fs read the first, deltalake and polars the second.
            "AWS_CA_BUNDLE": authority,
            "SSL_CERT_FILE": authority,
        }


@contextmanager
def shared_stores(folder: Path, *, encrypted: bool = False) -> Iterator[SharedStores]:
    """Servers that keep their data in a folder and end with the context; encrypted, they refuse what is not."""
    tls = certificates(folder / "tls") if encrypted else None
    secrets = folder / "secrets"
    secrets.mkdir(parents=True)
    with (
        redis_server(folder / "redis", tls) as redis,
        object_storage(folder / "objects", tls) as bucket,
        postgres(*DATABASES, tls=tls) as database,
    ):
        yield SharedStores(database, redis, bucket, secrets, tls)


@dataclass(frozen=True)
class Platform:
    """A platform on servers, asked as people ask it: every question a process of its own."""

    stores: SharedStores
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        path = f"{binary('pg_dump').parent}{os.pathsep}{os.environ['PATH']}"
        return child_environment({**self.stores.environment(self.home), "PATH": path, "PYTHONWARNINGS": "ignore"})

    def build(self) -> None:
        """Six days of flights, a champion and its predictions."""
        done = subprocess.run(
            [sys.executable, "-c", _BUILD], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        command = [str(Path(sys.executable).with_name("ml-platform")), *arguments]
        return subprocess.run(
            command, env={**self.environment, **environment}, capture_output=True, text=True, check=False
        )

    def said(self, *arguments: str) -> Any:
        done = self.run(*arguments, *(("--format", "json") if arguments[0] == "sql" else ("--json",)))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def answers(self) -> list[object]:
        """Status, and the champion's predictions: those on record and one made anew."""
        flights = self.said("sql", "SELECT * FROM flight_delay.predictions ORDER BY prediction_time, flight_id")
        asked = self.said("predict", "flight_delay", "--key", f"flight_id={flights[-1]['flight_id']}")
        return [self.said("status"), flights, asked]

    def online(self) -> dict[bytes, dict[bytes, bytes]]:
        """All that Redis holds."""
        with closing(self.stores.redis.client()) as client:
            return {key: client.hgetall(key) for key in client.scan_iter()}

    def destroy(self) -> None:
        """Every database made anew and empty, every key and every object deleted, the home gone."""
        for database in DATABASES:
            self.stores.postgres.run(f"DROP DATABASE {database} WITH (FORCE)", f"CREATE DATABASE {database}")
        with closing(self.stores.redis.client()) as client:
            client.flushall()
        client = self.stores.bucket.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket="tests"):
            for each in page.get("Contents", []):
                if not each["Key"].startswith("backups/"):
                    client.delete_object(Bucket="tests", Key=each["Key"])
        shutil.rmtree(self.home)
