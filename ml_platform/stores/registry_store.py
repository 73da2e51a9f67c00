"""Feast's file registry, made safe: folders appear, a write replaces the file at once, views have their entities.

Only Feast imports this module, by the name in ``feature_store.yaml``.
"""

import os
import uuid

from feast.feature_view import DUMMY_ENTITY_NAME
from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.utils import _utc_now


class UnregisteredEntityError(ValueError):
    """A view names an entity that is not in the registry: Feast accepts it, and then joins wrongly."""


class AtomicFileRegistryStore(FileRegistryStore):  # type: ignore[misc]
    """A registry file that is never seen half written, in a folder that need not exist yet.

    Feast's own makes one missing folder, not two, and truncates the file before it writes.
    """

    def update_registry_proto(self, registry_proto: Registry) -> None:
        """Write the registry, by whatever command.

        Raises:
            UnregisteredEntityError: a view names an entity that is not in it; nothing is written.
        """
        _require_entities(registry_proto)
        super().update_registry_proto(registry_proto)

    def _write_registry(self, registry_proto: Registry) -> None:
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.FromDatetime(_utc_now())
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._filepath.with_name(f"{self._filepath.name}.{registry_proto.version_id}")
        scratch.write_bytes(registry_proto.SerializeToString())
        os.replace(scratch, self._filepath)


def _require_entities(registry: Registry) -> None:
    known = {(entity.spec.project, entity.spec.name) for entity in registry.entities}
    for view in registry.feature_views:
        named = {name for name in view.spec.entities if name != DUMMY_ENTITY_NAME}
        if absent := sorted(name for name in named if (view.spec.project, name) not in known):
            found = ", ".join(sorted(name for project, name in known if project == view.spec.project))
            raise UnregisteredEntityError(
                f"view {view.spec.name!r} names entities {absent} that Feast did not find: define each as a "
                f"module-level object. Found are: {found}"
            )
