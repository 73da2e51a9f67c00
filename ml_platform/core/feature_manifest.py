"""What the platform knows of a Feast repository without importing Feast: views, services, their columns.

Belongs here: the shape of that knowledge. Reading it from Feast is :mod:`ml_platform.stores.repo_reader`.
"""

from datetime import timedelta
from typing import Literal

from pydantic import Field

from ml_platform.core.model_spec import Spec

EVENT_TIME = "event_timestamp"
"""The column, in every batch view and in frames to enrich, that says when a row's values became true."""


class ColumnSpec(Spec):
    """One column of a view. ``dtype`` is Feast's name for it, as ``Int64``."""

    name: str
    dtype: str
    description: str
    unit: str


class ViewSpec(Spec):
    """A feature view. ``batch`` views are tables of the lake; ``on_demand`` ones follow from the request."""

    name: str
    kind: Literal["batch", "on_demand"]
    entities: tuple[str, ...] = Field(description="Names of the entities; empty for on-demand views.")
    join_keys: tuple[ColumnSpec, ...]
    features: tuple[ColumnSpec, ...]
    request: tuple[ColumnSpec, ...] = Field(description="What the caller must give; on-demand views only.")
    ttl_seconds: int | None = Field(description="Age at which a row counts as absent; none: never.")
    owner: str
    description: str
    tags: dict[str, str]
    table: str | None = Field(description="Table of the lake it is read from.")

    @property
    def ttl(self) -> timedelta | None:
        """Age at which a row counts as absent; None if rows never expire."""
        return None if self.ttl_seconds is None else timedelta(seconds=self.ttl_seconds)

    @property
    def columns(self) -> tuple[ColumnSpec, ...]:
        """Join keys, then features."""
        return self.join_keys + self.features


class ServiceSpec(Spec):
    """A feature service: the ordered features a model sees.

    ``hash`` changes when, and only when, what the features mean may have changed: the definition of a view
    it reads, or the source code of a request-time view.
    """

    name: str
    hash: str
    features: tuple[str, ...] = Field(description="Short names, in the order of retrieval, unique.")
    categorical: tuple[str, ...] = Field(description="The features that are text.")
    views: tuple[str, ...]
    join_keys: tuple[str, ...]
    request_columns: tuple[str, ...]
    tables: tuple[str, ...] = Field(description="Tables of the lake it reads, sorted.")
    owner: str
    description: str
    tags: dict[str, str]

    @property
    def entity_columns(self) -> tuple[str, ...]:
        """What a row to enrich must carry beside its moment: join keys and request columns."""
        return self.join_keys + self.request_columns


class FeatureManifest(Spec):
    """All views and services of a Feast repository."""

    views: tuple[ViewSpec, ...]
    services: tuple[ServiceSpec, ...]

    @property
    def batch_views(self) -> tuple[ViewSpec, ...]:
        """The views that are tables of the lake."""
        return tuple(view for view in self.views if view.kind == "batch")

    def view(self, name: str) -> ViewSpec:
        """The view of that name.

        Raises:
            LookupError: there is none; the message names those there are.
        """
        for view in self.views:
            if view.name == name:
                return view
        raise LookupError(f"no feature view {name!r}; there are {', '.join(view.name for view in self.views)}")

    def service(self, name: str) -> ServiceSpec:
        """The service of that name.

        Raises:
            LookupError: there is none; the message names those there are.
        """
        for service in self.services:
            if service.name == name:
                return service
        raise LookupError(f"no feature service {name!r}; there are {', '.join(s.name for s in self.services)}")

    def column(self, service: str, feature: str) -> ColumnSpec:
        """The definition of a service's feature.

        Raises:
            LookupError: the service has no such feature.
        """
        for name in self.service(service).views:
            for column in self.view(name).features:
                if column.name == feature:
                    return column
        raise LookupError(f"service {service!r} has no feature {feature!r}")
