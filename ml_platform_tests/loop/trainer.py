"""A process that tunes and fits on a stored training set and prints the model."""

import sys

from ml_platform.core.splits import split
from ml_platform.core.training import fit
from ml_platform.core.tuning import tune
from ml_platform.settings import load
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.lake import Lake
from ml_platform.stores.model_tables import stored_training_set
from ml_platform_tests.loop.homes import FLIGHTS, small


def main(name: str) -> None:
    """Train the model as its asset does, with a small budget."""
    settings = load()
    spec = small(FLIGHTS.model(name))
    stored = stored_training_set(Lake.of(settings), spec)
    service = FeatureClient(settings).manifest().service(spec.service)
    rows = split(stored.frame, spec.windows, stored.as_of)
    tuned = tune(spec, rows.train, service.features)
    model = fit(spec, rows.train, service.features, tuned.params, tuned.rounds)
    sys.stdout.write("".join(f"{file}\n{text}\n" for file, text in sorted(model.to_files().items())))


if __name__ == "__main__":
    main(*sys.argv[1:])
