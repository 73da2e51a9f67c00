"""A contract suite that a project runs on its own declared model.

A project subclasses :class:`ModelContract` in a test module, says where its package, its feature repository and its
deliveries are, and pytest runs the promises of the platform on it::

    class TestDemand(ModelContract):
        package = Path(energy_demand.__file__).parent
        feature_repo = package.parent / "feature_repo"
        model = "demand"
        trained_at = datetime(2024, 3, 6, tzinfo=UTC)
        predicted_until = datetime(2024, 3, 8, tzinfo=UTC)

        def land(self, landing, until):
            deliveries.land(landing, until)

Every class makes a home in a temporary folder, runs the whole loop in it twice and throws it away. Only what the
promises need is assumed: nothing here knows of pytest, and heavy libraries are imported when first needed.
"""

from ml_platform.testing.contract import ModelContract

__all__ = ["ModelContract"]
