"""Feast's file registry, made safe: folders appear when needed, and a write replaces the file at once.

Only Feast imports this module, by the name in ``feature_store.yaml``.
"""

import os
import uuid

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.utils import _utc_now


class AtomicFileRegistryStore(FileRegistryStore):  # type: ignore[misc]
    """A registry file that is never seen half written, in a folder that need not exist yet.

    Feast's own makes one missing folder, not two, and truncates the file before it writes.
    """

    def _write_registry(self, registry_proto: Registry) -> None:
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.FromDatetime(_utc_now())
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._filepath.with_name(f"{self._filepath.name}.{registry_proto.version_id}")
        scratch.write_bytes(registry_proto.SerializeToString())
        os.replace(scratch, self._filepath)
