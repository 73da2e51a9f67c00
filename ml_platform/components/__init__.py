"""The component types that YAML documents name: tables, features and models become assets here."""

from ml_platform.components.features_component import FeaturesComponent
from ml_platform.components.model_component import ModelComponent
from ml_platform.components.table_component import TableComponent

__all__ = ["FeaturesComponent", "ModelComponent", "TableComponent"]
