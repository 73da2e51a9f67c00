"""Reads a Feast repository in a process of its own: its manifest, and ``apply``.

``python -m ml_platform.stores.repo_reader manifest|apply REPO FEATURE_STORE_YAML OUT STATE`` writes the manifest
to OUT; what is applied carries STATE as a tag of the Feast project, so that others know what the registry holds.
A process of its own, because reading a repository imports its files as top-level modules and changes the working
directory, and because importing Feast takes seconds that the caller need not spend.
"""

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_platform.core.feature_manifest import ColumnSpec, FeatureManifest, ServiceSpec, ViewSpec

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore, FeatureView, Field
    from feast.on_demand_feature_view import OnDemandFeatureView
    from feast.repo_contents import RepoContents


_NOTE = "column:"
_STATE_TAG = "ml_platform/state"
_APPLY_LOCK = 7_215_330_919
"""Any number that nothing else in the registry's database locks."""


class FeatureRepoError(ValueError):
    """The feature repository is not usable as it stands."""


def main(arguments: list[str]) -> int:
    """Run one command; 0 if it succeeded, 1 (and the reason on stderr) if the repository is at fault."""
    command, repo, yaml, out, state = arguments[0], *map(Path, arguments[1:4]), arguments[4]
    os.chdir(repo)
    sys.path.insert(0, str(repo))
    try:
        contents = _parse(repo)
        manifest = read_manifest(contents)
        if command == "apply":
            _apply(contents, repo, yaml, state)
    except FeatureRepoError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f"{out.name}.{os.getpid()}")
    scratch.write_text(manifest.model_dump_json(indent=1))
    os.replace(scratch, out)
    return 0


def _parse(repo: Path) -> "RepoContents":
    from feast.repo_operations import parse_repo

    contents = parse_repo(repo)
    _require_entities(contents)
    return contents


def applied_state(store: "FeatureStore") -> str:
    """The state with which the registry's definitions were applied; empty if it has none, or someone else applied."""
    from feast.errors import ProjectNotFoundException, ProjectObjectNotFoundException

    try:
        return str(store.registry.get_project(store.project).tags.get(_STATE_TAG, ""))
    except (ProjectNotFoundException, ProjectObjectNotFoundException):
        return ""


@contextmanager
def alone(store: "FeatureStore") -> Iterator[None]:
    """While no other process applies to a registry in Postgres, or makes its tables; one in a file is a home's own."""
    path = store.config.registry.path if store.config.registry.registry_type == "sql" else ""
    if not path.startswith("postgresql"):
        yield
        return
    from sqlalchemy import create_engine, text

    engine = create_engine(path)
    try:
        with engine.connect() as connection:
            # It goes with the connection, however this process ends.
            connection.execute(text(f"SELECT pg_advisory_lock({_APPLY_LOCK})"))
            yield
    finally:
        engine.dispose()


def _apply(contents: "RepoContents", repo: Path, yaml: Path, state: str) -> None:
    """As ``feast apply``, but a warning about mismatched entities is an error.

    Raises:
        FeatureRepoError: Feast warned that a view's entities do not match its columns.
    """
    from feast import FeatureStore
    from feast.project import Project
    from feast.repo_operations import apply_total_with_repo_instance

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="On demand feature view is an experimental feature")
        warnings.filterwarnings("error", message=".*mismatches in your feature view")
        store = FeatureStore(repo_path=str(repo), fs_yaml_file=yaml)
        if not contents.projects:
            contents.projects.append(Project(name=store.project))
        declared = [dict(project.tags) for project in contents.projects]
        with alone(store):
            if applied_state(store) == state:
                return
            for project, tags in zip(contents.projects, declared, strict=True):
                project.tags = {**tags, _STATE_TAG: ""}
            try:
                apply_total_with_repo_instance(
                    store, store.project, store.registry, contents, skip_source_validation=True
                )
                # Read back: Feast compares entities with columns when it reads, not when it writes.
                store.refresh_registry()
                store.list_feature_views()
            except UserWarning as warning:
                raise FeatureRepoError(str(warning)) from None
            # A registry in a database takes one object after the other: whoever reads the state finds all of them.
            for project, tags in zip(contents.projects, declared, strict=True):
                project.tags = {**tags, _STATE_TAG: state}
                store.registry.apply_project(project)


def _require_entities(contents: "RepoContents") -> None:
    """Refuse views whose joins Feast would get silently wrong.

    Raises:
        FeatureRepoError: a view names an entity that Feast did not find, or lacks an entity's join key.
    """
    join_keys = {entity.name: entity.join_key for entity in contents.entities}
    for view in contents.feature_views:
        if absent := [name for name in view.entities if name not in join_keys]:
            known = ", ".join(sorted(name for name in join_keys if not name.startswith("__")))
            raise FeatureRepoError(
                f"view {view.name!r} names entities {absent} that Feast did not find: define each as a "
                f"module-level object. Found are: {known}"
            )
        expected = {join_keys[name] for name in view.entities if not name.startswith("__")}
        columns = {column.name for column in view.entity_columns}
        if expected != columns:
            raise FeatureRepoError(
                f"view {view.name!r} has entity columns {sorted(columns)}, but its entities join on "
                f"{sorted(expected)}: list each join key in its schema"
            )


def read_manifest(contents: "RepoContents") -> FeatureManifest:
    """The manifest of a parsed repository, sorted by name.

    Raises:
        FeatureRepoError: a service has two features of one name.
    """
    views = [_batch_view(view, contents) for view in contents.feature_views]
    views += [_on_demand_view(view) for view in contents.on_demand_feature_views]
    by_name = {view.name: view for view in views}
    code = {view.name: view.feature_transformation.udf_string for view in contents.on_demand_feature_views}
    services = [_service(service, by_name, code) for service in contents.feature_services]
    return FeatureManifest(
        views=tuple(sorted(views, key=lambda view: view.name)),
        services=tuple(sorted(services, key=lambda service: service.name)),
    )


def _batch_view(view: "FeatureView", contents: "RepoContents") -> ViewSpec:
    keys = {entity.join_key for entity in contents.entities if entity.name in view.entities}
    return ViewSpec(
        name=view.name,
        kind="batch",
        entities=tuple(view.entities),
        # Not from the schema, which Feast puts together as a set: its order differs from process to process.
        join_keys=_columns(field for field in view.entity_columns if field.name in keys),
        features=_columns(view.features),
        request=(),
        ttl_seconds=int(view.ttl.total_seconds()) if view.ttl else None,
        owner=view.owner,
        description=view.description,
        tags=dict(view.tags),
        table=view.batch_source.path,
    )


def _on_demand_view(view: "OnDemandFeatureView") -> ViewSpec:
    """Feast keeps no description of an on-demand column: the view's tags ``column:<name>`` do."""
    notes = {name.removeprefix(_NOTE): text for name, text in view.tags.items() if name.startswith(_NOTE)}
    request = [field for source in view.source_request_sources.values() for field in source.schema]
    return ViewSpec(
        name=view.name,
        kind="on_demand",
        entities=(),
        join_keys=(),
        features=tuple(_noted(field, notes.get(field.name, "")) for field in view.features),
        request=_columns(request),
        ttl_seconds=None,
        owner=view.owner,
        description=view.description,
        tags={name: text for name, text in view.tags.items() if not name.startswith(_NOTE)},
        table=None,
    )


def _service(service: "FeatureService", views: dict[str, ViewSpec], code: dict[str, str]) -> ServiceSpec:
    selected = [
        (views[projection.name], column)
        for projection in service.feature_view_projections
        for column in views[projection.name].features
        if column.name in {field.name for field in projection.features}
    ]
    names = [column.name for _, column in selected]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FeatureRepoError(
            f"service {service.name!r} has two features called {', '.join(twice)}: rename one of each"
        )
    used = list(dict.fromkeys(view.name for view, _ in selected))
    join_keys = dict.fromkeys(key.name for name in used for key in views[name].join_keys)
    return ServiceSpec(
        name=service.name,
        hash=_meaning([views[name] for name in used], names, code),
        features=tuple(names),
        categorical=tuple(column.name for _, column in selected if column.dtype == "String"),
        views=tuple(used),
        join_keys=tuple(join_keys),
        request_columns=tuple(dict.fromkeys(column.name for name in used for column in views[name].request)),
        tables=tuple(sorted(table for name in used if (table := views[name].table))),
        owner=service.owner,
        description=service.description,
        tags=dict(service.tags),
    )


def _meaning(views: list[ViewSpec], features: list[str], code: dict[str, str]) -> str:
    """A digest of all that decides the features' values; owners, tags and descriptions do not."""
    parts: list[Any] = [features]
    for view in sorted(views, key=lambda view: view.name):
        columns = [[(c.name, c.dtype) for c in group] for group in (view.join_keys, view.features, view.request)]
        parts.append([view.name, view.kind, view.table, view.ttl_seconds, columns, code.get(view.name, "")])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _columns(fields: "Iterable[Field]") -> tuple[ColumnSpec, ...]:
    return tuple(
        ColumnSpec(
            name=field.name, dtype=str(field.dtype), description=field.description, unit=field.tags.get("unit", "")
        )
        for field in fields
    )


def _noted(field: "Field", note: str) -> ColumnSpec:
    unit, _, description = note.partition(": ")
    return ColumnSpec(name=field.name, dtype=str(field.dtype), description=description, unit=unit)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
