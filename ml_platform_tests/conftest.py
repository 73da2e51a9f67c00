"""What holds for every test: libraries find the environment that the platform gives them."""

from ml_platform.settings import prepare_environment

prepare_environment()
