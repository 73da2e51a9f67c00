"""Feast's Redis online store by URL, with a password that is no part of any configuration.

Belongs here: how the server is reached. What is stored and how is Feast's. Its connection string would hold the
password, and could not hold one with a comma.
"""

from typing import Any
from urllib.parse import urlsplit, urlunsplit

from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from pydantic import StrictBool, StrictStr
from redis import CredentialProvider, Redis

from ml_platform import settings

_TIMEOUT_SECONDS = 30.0


class RedisUrlOnlineStoreConfig(RedisOnlineStoreConfig):  # type: ignore[misc]
    """``url`` is ``redis://[user@]host:6379/0``, or ``rediss://…`` for TLS.

    The password is ``ML_PLATFORM_REDIS_PASSWORD`` or the content of the file that ``ML_PLATFORM_REDIS_PASSWORD_FILE``
    names; ``ML_PLATFORM_REDIS_CA_FILE`` is who signed the server's certificate, if the system does not know them.
    """

    type: StrictStr = "ml_platform.stores.redis_store.RedisUrlOnlineStore"
    url: StrictStr
    # What is written is known to be the newest: Feast would keep the old value of a row whose correction has its time.
    skip_dedup: StrictBool = True


class RedisUrlOnlineStore(RedisOnlineStore):  # type: ignore[misc]
    """Feast's store on the server of ``url``."""

    _client: Any
    _client_async: Any

    def _get_client(self, online_store_config: RedisUrlOnlineStoreConfig) -> Any:
        if self._client is None:
            self._client = redis_client(online_store_config.url)
        return self._client

    async def _get_client_async(self, online_store_config: RedisUrlOnlineStoreConfig) -> Any:
        if self._client_async is None:
            from redis import asyncio

            place, options = _reached(online_store_config.url)
            self._client_async = asyncio.Redis.from_url(place, **options)
        return self._client_async


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
