"""Feast's Redis online store by URL, with a password that is no part of any configuration.

Belongs here: how the server is reached, and which rows are written. How they are stored is Feast's. Its connection
string would hold the password, and could not hold one with a comma.
"""

import asyncio
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import polars as pl
from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key, serialize_entity_key_prefix
from feast.infra.online_stores.helpers import _mmh3, _redis_key, compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import make_tzaware
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from pydantic import StrictStr
from redis import CredentialProvider, Redis

from ml_platform import settings
from ml_platform.stores.online_store import OnlineWriteError, encoded_keys

_TIMEOUT_SECONDS = 30.0

_SCANNED_AT_ONCE = 10_000
"""Names of keys that Redis looks through before it answers others."""

_SPECIAL = re.compile(rb"[*?\[\]\\^-]")
"""What means something in a pattern of Redis."""

_restating: ContextVar[bool] = ContextVar("restating", default=False)

_Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


class RedisUrlOnlineStoreConfig(RedisOnlineStoreConfig):  # type: ignore[misc]
    """``url`` is ``redis://[user@]host:6379/0``, or ``rediss://…`` for TLS.

    The password is ``ML_PLATFORM_REDIS_PASSWORD`` or the content of the file that ``ML_PLATFORM_REDIS_PASSWORD_FILE``
    names; ``ML_PLATFORM_REDIS_CA_FILE`` is who signed the server's certificate, if the system does not know them.
    """

    type: StrictStr = "ml_platform.stores.redis_store.RedisUrlOnlineStore"
    url: StrictStr
    # What is older is kept back here: Feast would also keep the old value of a row whose correction has its time.
    skip_dedup: Literal[True] = True


class RedisUrlOnlineStore(RedisOnlineStore):  # type: ignore[misc]
    """Feast's store on the server of ``url``, in which a newer row stays and what is written is read back.

    Newer is by event timestamp: Redis holds no created ones. Two programs that write the same key in the same instant
    are not told apart.
    """

    _client: Any
    _client_async: Any

    @contextmanager
    def restating(self) -> Iterator[None]:
        """Rows written within replace newer ones too: a correction may take the newest row of a key back."""
        before = _restating.set(True)
        try:
            yield
        finally:
            _restating.reset(before)

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[_Row], progress: Callable[[int], Any] | None
    ) -> None:
        """Write rows as Feast hands them over; of rows of one key the newest counts, of equally new ones the last.

        Raises:
            OnlineWriteError: the server does not hold what was written.
        """
        rows = _newest_of_each(config, data)
        if not _restating.get():
            stood = self._moments(config, table, list(rows))
            rows = {key: row for key, row in rows.items() if _nanoseconds(row) >= stood[key]}
        super().online_write_batch(config, table, list(rows.values()), None)
        if lost := self._lost(config, table, rows):
            raise OnlineWriteError(f"view {table.name!r}: {lost} of {len(rows)} rows are not in Redis as written")
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[_Row], progress: Callable[[int], Any] | None
    ) -> None:
        """As :meth:`online_write_batch`, in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def keep_only(self, config: RepoConfig, table: FeatureView, rows: pl.DataFrame) -> int:
        """Remove the keys that have no row here: whose row has expired, or was taken back by a correction.

        The names of all keys of the database are looked through, as Redis has no list of those of a view.

        Args:
            config: of the feature store.
            table: the view.
            rows: the view's join keys, none of them null.

        Returns:
            How many were removed.
        """
        project = config.project.encode()
        kept = {key + project for key in encoded_keys(config, table, rows)}
        version = config.entity_key_serialization_version
        parts = serialize_entity_key_prefix(sorted(field.name for field in table.entity_columns), version)
        view, moment = _view(config, table), _moment_field(config, table)
        fields = [moment, *(_mmh3(f"{view}:{field.name}") for field in table.features)]
        pattern = b"*".join(_SPECIAL.sub(rb"\\\g<0>", literally) for literally in (parts, project))
        client, removed, cursor = self._get_client(config.online_store), 0, None
        while cursor != 0:
            cursor, some = client.scan(cursor or 0, pattern, _SCANNED_AT_ONCE)
            with client.pipeline(transaction=False) as pipe:
                for key in some:
                    if key not in kept and _is_of(key, project, version):
                        pipe.hdel(key, *fields)  # a key without fields is gone
                removed += sum(map(bool, pipe.execute()))
        return removed

    def _moments(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> dict[bytes, int]:
        """The moment of each key's row in nanoseconds; -1 where there is none."""
        found = self._read_hash_fields(config, [(key, [_moment_field(config, table)]) for key in keys])
        return {key: _parsed(moment) for key, (moment,) in zip(keys, found, strict=True)}

    def _lost(self, config: RepoConfig, table: FeatureView, rows: dict[bytes, _Row]) -> int:
        """Of how many keys the server holds neither this row nor a newer one."""
        view, moment = _view(config, table), _moment_field(config, table)
        asked = [(key, [moment, *(_mmh3(f"{view}:{name}") for name in row[1])]) for key, row in rows.items()]
        lost = 0
        for row, (at, *values) in zip(rows.values(), self._read_hash_fields(config, asked), strict=True):
            same = _parsed(at) == _nanoseconds(row) and values == [
                value.SerializeToString() for value in row[1].values()
            ]
            lost += not same and _parsed(at) <= _nanoseconds(row)
        return lost

    def _get_client(self, online_store_config: RedisUrlOnlineStoreConfig) -> Any:
        if self._client is None:
            self._client = redis_client(online_store_config.url)
        return self._client

    async def _get_client_async(self, online_store_config: RedisUrlOnlineStoreConfig) -> Any:
        if self._client_async is None:
            from redis.asyncio import Redis as AsyncRedis

            place, options = _reached(online_store_config.url)
            self._client_async = AsyncRedis.from_url(place, **options)
        return self._client_async


def _newest_of_each(config: RepoConfig, rows: Sequence[_Row]) -> dict[bytes, _Row]:
    """Rows by their key in Redis."""
    newest: dict[bytes, _Row] = {}
    for row in rows:
        key = _redis_key(config.project, row[0], config.entity_key_serialization_version)
        if key not in newest or not _older(row, newest[key]):
            newest[key] = row
    return newest


def _is_of(key: bytes, project: bytes, version: int) -> bool:
    """Whether a key that ends in a project's name is of it, and not of one whose name ends alike."""
    entity = key.removesuffix(project)
    try:
        return bool(serialize_entity_key(deserialize_entity_key(entity, version), version) == entity)
    except (ValueError, IndexError, struct.error):
        return False


def _older(row: _Row, stood: _Row) -> bool:
    at, stood_at, created, stood_created = _nanoseconds(row), _nanoseconds(stood), row[3], stood[3]
    if at != stood_at or created is None or stood_created is None:
        return at < stood_at
    return bool(make_tzaware(created) < make_tzaware(stood_created))


def _nanoseconds(row: _Row) -> int:
    moment = Timestamp()
    moment.FromDatetime(make_tzaware(row[2]))
    return int(moment.ToNanoseconds())


def _parsed(stored: bytes | None) -> int:
    return -1 if stored is None else int(Timestamp.FromString(stored).ToNanoseconds())


def _view(config: RepoConfig, table: FeatureView) -> str:
    return str(compute_versioned_name(table, config.registry.enable_online_feature_view_versioning))


def _moment_field(config: RepoConfig, table: FeatureView) -> str:
    return f"_ts:{_view(config, table)}"


def redis_client(url: str) -> Redis:
    """A client whose every new connection asks for the password as it is by then."""
    place, options = _reached(url)
    return Redis.from_url(place, **options)


def _reached(url: str) -> tuple[str, dict[str, Any]]:
    """The URL without its user, and how a connection is made."""
    parts, config = urlsplit(url), settings.load()
    options: dict[str, Any] = {"socket_timeout": _TIMEOUT_SECONDS, "socket_connect_timeout": _TIMEOUT_SECONDS}
    if config.redis_password:
        options["credential_provider"] = _Credentials(parts.username)
    if config.redis_ca_file is not None and parts.scheme == "rediss":
        options["ssl_ca_certs"] = str(config.redis_ca_file)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), options


class _Credentials(CredentialProvider):
    """User and password of the settings: a mounted password is followed when it is rotated."""

    def __init__(self, user: str | None) -> None:
        self._user = user

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = settings.load().redis_password
        return (self._user, password) if self._user else (password,)
