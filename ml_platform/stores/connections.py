"""What shared servers answer: reached, allowed to do what the platform does, and of a version it knows.

Belongs here: one probe of each kind of server, which leaves nothing behind. What to say of it is the caller's.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from ml_platform.settings import Settings

_TIMEOUT_SECONDS = 5
_OLDEST_POSTGRES = 14
_OLDEST_REDIS = (6, 2)


class ConnectionProblem(Exception):
    """A server cannot be used; ``fix`` says what to do."""

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(found)
        self.fix = fix


@dataclass(frozen=True)
class Connection:
    """A server or place that settings name: which of them, where, and the probe that says what it found there."""

    setting: str
    place: str
    probe: Callable[[], str]


def connections(settings: Settings) -> Iterator[Connection]:
    """Every server and place in object storage of these settings; none for an embedded store."""
    databases = {
        "ML_PLATFORM_DAGSTER_STORAGE_URL": settings.dagster_storage_url,
        "ML_PLATFORM_MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri,
        "ML_PLATFORM_OPTUNA_URL": settings.optuna_storage_url,
        "ML_PLATFORM_FEAST_REGISTRY_URL": settings.feast_registry_url,
    }
    for name, url in databases.items():
        if url.startswith("postgresql"):
            yield Connection(name, _shown(url), partial(postgres, url))
        elif url.startswith(("http:", "https:")):
            yield Connection(name, _shown(url), partial(mlflow_server, url))
    if settings.redis_url:
        yield Connection("ML_PLATFORM_REDIS_URL", _shown(settings.redis_url), partial(redis, settings.redis_url))
    places = {
        "ML_PLATFORM_LAKE_URI": settings.lake_uri,
        "ML_PLATFORM_LANDING": str(settings.landing),
        "ML_PLATFORM_REPORTS": str(settings.reports),
        "ML_PLATFORM_MLFLOW_ARTIFACTS_URI": settings.mlflow_artifacts_uri,
        "ML_PLATFORM_COMPUTE_LOGS_URI": settings.compute_logs_uri,
    }
    for name, uri in places.items():
        if uri.startswith(("s3:", "s3a:")):
            writes, commits = name != "ML_PLATFORM_LANDING", name == "ML_PLATFORM_LAKE_URI"
            probe = partial(object_storage, settings, uri, writes=writes, commits=commits)
            yield Connection(name, uri, probe)


def postgres(url: str) -> str:
    """Connect, and ask for version, encryption and the right to make tables.

    Raises:
        ConnectionProblem: it cannot be reached or used.
    """
    import psycopg2

    try:
        connection = psycopg2.connect(
            url.replace("postgresql+psycopg2:", "postgresql:", 1), connect_timeout=_TIMEOUT_SECONDS
        )
    except psycopg2.OperationalError as error:
        said = " ".join(str(error).split())
        raise ConnectionProblem(said, _postgres_fix(said)) from None
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT current_setting('server_version_num')::int, current_schema(), current_user,"
                " coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),"
                " current_setting('transaction_read_only')::bool"
            )
            number, schema, user, creates, only_reads = cursor.fetchone()
            encrypted = connection.info.ssl_in_use
    finally:
        connection.close()
    if number < _OLDEST_POSTGRES * 10_000:
        raise ConnectionProblem(
            f"Postgres {number // 10_000} is older than {_OLDEST_POSTGRES}", "upgrade the server (deploy/runbooks)"
        )
    if only_reads:
        raise ConnectionProblem(
            f"{user} may only read", "name the primary, or ALTER ROLE … RESET default_transaction_read_only"
        )
    if not creates:
        raise ConnectionProblem(
            f"{user} may not make tables in schema {schema}", f'GRANT CREATE ON SCHEMA "{schema}" TO "{user}"'
        )
    return f"Postgres {number // 10_000}, {'TLS' if encrypted else 'no TLS'}"


def redis(url: str) -> str:
    """Write, read and delete a key of our own, and ask for the version.

    Raises:
        ConnectionProblem: it cannot be reached or used.
    """
    from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

    from ml_platform.stores.redis_store import redis_client

    client, key, value = redis_client(url), f"ml_platform:doctor:{uuid4()}", b"1"
    try:
        client.set(key, value, ex=60)
        if client.get(key) != value:
            raise ConnectionProblem("a key that was written could not be read", "is it a replica? name the primary")
        client.delete(key)
        said: Any = client.info("server")
    except AuthenticationError as error:
        fix = "set ML_PLATFORM_REDIS_PASSWORD or ML_PLATFORM_REDIS_PASSWORD_FILE, and the user in the URL if it has one"
        raise ConnectionProblem(f"not let in: {error}", fix) from None
    except NoPermissionError as error:
        raise ConnectionProblem(str(error), "ACL SETUSER <user> ~* +@read +@write +@connection +info +scan") from None
    except RedisError as error:
        if "AuthenticationError" in type(error).__name__ or "NOAUTH" in str(error):
            raise ConnectionProblem(str(error), "set ML_PLATFORM_REDIS_PASSWORD or its _FILE") from None
        raise ConnectionProblem(f"{type(error).__name__}: {error}", "is it running, and is the URL right?") from None
    finally:
        client.close()
    version = str(said["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_REDIS:
        oldest = ".".join(map(str, _OLDEST_REDIS))
        raise ConnectionProblem(f"Redis {version} is older than {oldest}", "upgrade the server (deploy/runbooks)")
    return f"Redis {version}, {'TLS' if url.startswith('rediss:') else 'no TLS'}"


def object_storage(settings: Settings, uri: str, *, writes: bool, commits: bool) -> str:
    """List, and read one that is there, or where the platform ``writes``, write, read and delete an object of our own.

    Where it ``commits`` Delta tables, two writers must not both succeed in writing the same object: the storage has to
    honour conditional writes, or commits would be lost.

    Raises:
        ConnectionProblem: it cannot be reached or used.
    """
    bucket, _, prefix = uri.partition("://")[2].partition("/")
    key = "/".join(part for part in (prefix.strip("/"), f".doctor-{uuid4()}") if part)
    # Options of the lake are the lake's alone, whatever else is in the same storage.
    client = s3_client(settings.storage_options if commits else {})
    with _explained(bucket):
        listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents", [])
        found = "may list"
        if listed and not writes:
            client.get_object(Bucket=bucket, Key=listed[0]["Key"], Range="bytes=0-0")["Body"].read()
            found = "may list and read"
        if writes:
            client.put_object(Bucket=bucket, Key=key, Body=b"1")
            try:
                client.get_object(Bucket=bucket, Key=key)["Body"].read()
                if commits and not _refuses_second_writer(client, bucket, key):
                    raise ConnectionProblem(
                        "the storage overwrites an object that must not be there yet (If-None-Match is ignored): "
                        "commits of two writers would be lost",
                        "use a storage with conditional writes, or a newer version of it",
                    )
            finally:
                client.delete_object(Bucket=bucket, Key=key)
            found = "may list, read, write and delete" + (", commits are safe" if commits else "")
    encrypted = client.meta.endpoint_url.startswith("https:")
    return f"{found}, {'TLS' if encrypted else 'no TLS'}"


def mlflow_server(url: str) -> str:
    """Ask for the server's version, which must be of the client's release.

    Raises:
        ConnectionProblem: it cannot be reached, or is of another release.
    """
    from importlib.metadata import version

    import requests

    try:
        answer = requests.get(f"{url.rstrip('/')}/version", timeout=_TIMEOUT_SECONDS)
        answer.raise_for_status()
    except requests.RequestException as error:
        code = getattr(error.response, "status_code", None)
        said = f"it answers {code}" if code else type(error).__name__
        raise ConnectionProblem(said, "is it running, and is the URL right? is a login needed?") from None
    server, client = answer.text.strip(), version("mlflow")
    if server.split(".")[0] != client.split(".")[0]:
        raise ConnectionProblem(f"MLflow {server}, the client is {client}", "run both of the same release")
    return f"MLflow {server}, {'TLS' if url.startswith('https:') else 'no TLS'}"


def s3_client(options: Mapping[str, str]) -> Any:
    """A client of the object storage that the standard ``AWS_*`` variables name, and these options of the lake."""
    import boto3
    from botocore.config import Config

    # boto3.client would keep the credentials that this process first had.
    return boto3.Session().client(
        "s3",
        endpoint_url=options.get("aws_endpoint_url"),
        aws_access_key_id=options.get("aws_access_key_id"),
        aws_secret_access_key=options.get("aws_secret_access_key"),
        aws_session_token=options.get("aws_session_token"),
        region_name=options.get("aws_region"),
        config=Config(connect_timeout=_TIMEOUT_SECONDS, read_timeout=30, retries={"max_attempts": 2}),
    )


def _refuses_second_writer(client: Any, bucket: str, key: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"2", IfNoneMatch="*")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
            return True
        raise
    return False


@contextmanager
def _explained(bucket: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError:
        fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the workload an identity"
        raise ConnectionProblem("no credentials", fix) from None
    except ClientError as error:
        code, action = error.response["Error"]["Code"], error.operation_name
        fixes = {
            "NoSuchBucket": f"make bucket {bucket}, or name one that is there",
            "AccessDenied": f"allow {action} on bucket {bucket}",
            "InvalidAccessKeyId": "set AWS_ACCESS_KEY_ID to a key of this storage",
            "SignatureDoesNotMatch": "set AWS_SECRET_ACCESS_KEY to the key's secret",
        }
        raise ConnectionProblem(f"{action}: {code}", fixes.get(code, "ask who runs the storage")) from None
    except BotoCoreError as error:
        fix = "is AWS_ENDPOINT_URL right, and is the storage running?"
        raise ConnectionProblem(type(error).__name__, fix) from None


def _shown(url: str) -> str:
    """Host, port and database: neither user nor options."""
    parts = urlsplit(url)
    return f"{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path.rstrip('/')}"


def _postgres_fix(said: str) -> str:
    # The first that is said counts.
    for sign, fix in {
        "service file": "let PGSERVICEFILE name a file of services that can be read",
        "definition of service": "let PGSERVICE name a section of the file of PGSERVICEFILE",
        "root certificate file": "let PGSSLROOTCERT name the file of who signed the server's certificate",
        "no password supplied": "let PGSERVICEFILE or PGPASSFILE name a file with the password, or set PGPASSWORD",
        "password authentication failed": "set it right in the file of PGSERVICEFILE or PGPASSFILE, or in PGPASSWORD",
        "does not exist": "make the database (or user) that the URL names",
        "could not translate host name": "set the host in the URL right",
        "certificate": "let PGSSLROOTCERT name the file of who signed the server's certificate",
        "SSL error": "let PGSSLROOTCERT name the file of who signed the server's certificate",
        "SSL": "set PGSSLMODE to what the server offers",
        "pg_hba.conf": "let the server admit this host, user and database, or set PGSSLMODE=require",
    }.items():
        if sign in said:
            return fix
    return "is it running, and are host and port of the URL right?"
