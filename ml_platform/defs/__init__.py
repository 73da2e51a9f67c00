"""What this installation declares: one folder per data set, loaded by ``ml_platform.definitions``."""
