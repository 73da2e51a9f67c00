"""What the environment may say, and what is refused of it."""

from pathlib import Path

import pytest

from ml_platform.settings import load


@pytest.mark.parametrize(
    ("variable", "url", "named"),
    [
        ("ML_PLATFORM_DAGSTER_STORAGE_URL", "postgresql://u:hunter2@db/dagster", "PGPASSFILE"),
        ("ML_PLATFORM_FEAST_REGISTRY_URL", "postgresql://u@db/feast?password=hunter2", "PGPASSFILE"),
        ("ML_PLATFORM_OPTUNA_URL", "postgresql+psycopg2://u:hunter2@db/optuna", "PGPASSFILE"),
        ("ML_PLATFORM_MLFLOW_TRACKING_URI", "https://u:hunter2@mlflow", "MLFLOW_TRACKING_PASSWORD"),
        ("ML_PLATFORM_REDIS_URL", "redis://:hunter2@cache:6379/0", "ML_PLATFORM_REDIS_PASSWORD"),
        ("ML_PLATFORM_COMPUTE_LOGS_URI", "s3://key:hunter2@bucket/logs", "AWS_SECRET_ACCESS_KEY"),
        ("ML_PLATFORM_LAKE_URI", "s3://key:hunter2@bucket/lake", "AWS_SECRET_ACCESS_KEY"),
        ("ML_PLATFORM_LANDING", "s3://key:hunter2@bucket/landing", "AWS_SECRET_ACCESS_KEY"),
        ("ML_PLATFORM_REPORTS", "s3://key:hunter2@bucket/reports", "AWS_SECRET_ACCESS_KEY"),
        ("ML_PLATFORM_MLFLOW_ARTIFACTS_URI", "s3://key:hunter2@bucket/mlflow", "AWS_SECRET_ACCESS_KEY"),
        ("ML_PLATFORM_DAGSTER_URL", "https://u:hunter2@dagster", "links with it"),
        ("ML_PLATFORM_MLFLOW_URL", "https://u:hunter2@mlflow", "links with it"),
        ("ML_PLATFORM_REPORTS_URL", "https://u:hunter2@reports", "links with it"),
    ],
)
def test_a_url_that_holds_a_password_is_refused_without_repeating_it(variable: str, url: str, named: str) -> None:
    with pytest.raises(ValueError, match=f"{variable} must not hold a password") as refused:
        load({variable: url})
    assert named in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "url", "allowed"),
    [
        ("ML_PLATFORM_DAGSTER_STORAGE_URL", "mysql://u@db/dagster", "postgresql://"),
        ("ML_PLATFORM_REDIS_URL", "cache:6379", "redis://"),
    ],
)
def test_a_server_of_another_kind_is_refused_with_what_is_allowed(variable: str, url: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=variable) as refused:
        load({variable: url})
    assert allowed in str(refused.value)
    assert url in str(refused.value)


def test_postgres_is_reached_by_the_driver_that_is_installed() -> None:
    # For SQLAlchemy 2.1 the bare scheme means psycopg 3.
    config = load(
        {
            "ML_PLATFORM_DAGSTER_STORAGE_URL": "postgresql://u@db/dagster?sslmode=verify-full",
            "ML_PLATFORM_OPTUNA_URL": "postgres://u@db/optuna",
        }
    )
    assert config.dagster_storage_url == "postgresql+psycopg2://u@db/dagster?sslmode=verify-full"
    assert config.optuna_storage_url == "postgresql+psycopg2://u@db/optuna"


def test_a_secret_is_read_from_the_file_that_is_mounted_and_shown_by_no_repr(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    environ = {"ML_PLATFORM_REDIS_PASSWORD_FILE": str(file), "ML_PLATFORM_STORAGE_AWS_SECRET_ACCESS_KEY": "hunter3"}
    config = load(environ)
    assert config.redis_password == "hunter2"
    assert "hunter" not in repr(config)
    file.write_text("rotated\n")
    assert load(environ).redis_password == "rotated"


def test_a_secret_given_twice_or_whose_file_is_not_there_is_an_error_that_names_the_variable(
    tmp_path: Path,
) -> None:
    missing = {"ML_PLATFORM_ALERT_SMTP_URL_FILE": str(tmp_path / "gone")}
    with pytest.raises(ValueError, match=r"ML_PLATFORM_ALERT_SMTP_URL_FILE: cannot read .*gone: FileNotFoundError"):
        load(missing)
    with pytest.raises(ValueError, match="ML_PLATFORM_ALERT_SMTP_URL and ML_PLATFORM_ALERT_SMTP_URL_FILE are both set"):
        load(missing | {"ML_PLATFORM_ALERT_SMTP_URL": "smtp://mail"})


def test_places_are_folders_or_prefixes_in_object_storage(tmp_path: Path) -> None:
    config = load({"ML_PLATFORM_LANDING": "s3://bucket/landing", "ML_PLATFORM_REPORTS": str(tmp_path / "reports")})
    assert str(config.landing / "arrivals" / "2013-01-01.csv") == "s3://bucket/landing/arrivals/2013-01-01.csv"
    assert config.reports == tmp_path / "reports"


@pytest.mark.parametrize(
    ("value", "found"),
    [("", ""), ("s3://ml/logs", "s3://ml/logs"), ("s3://ml.example/a/b-c/", "s3://ml.example/a/b-c")],
)
def test_the_output_of_steps_stays_in_the_home_or_goes_under_a_prefix_of_a_bucket(value: str, found: str) -> None:
    assert load({"ML_PLATFORM_COMPUTE_LOGS_URI": value}).compute_logs_uri == found
    assert load({}).compute_logs_uri == ""


@pytest.mark.parametrize(
    "value", ["s3://", "s3:///logs", "s3://ml", "s3://ml/", "s3://ml//logs", "gs://ml/logs", "/logs", "s3://ml/a b"]
)
def test_output_of_steps_elsewhere_is_refused_with_what_is_allowed(value: str) -> None:
    with pytest.raises(ValueError, match="ML_PLATFORM_COMPUTE_LOGS_URI must be s3://bucket/prefix or empty") as refused:
        load({"ML_PLATFORM_COMPUTE_LOGS_URI": value})
    assert repr(value) in str(refused.value)


def test_a_key_of_the_lake_may_be_in_a_file_and_other_options_that_end_so_are_options(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("hunter3\n")
    found = load(
        {
            "ML_PLATFORM_STORAGE_AWS_SECRET_ACCESS_KEY_FILE": str(file),
            "ML_PLATFORM_STORAGE_AWS_WEB_IDENTITY_TOKEN_FILE": "/run/token",
        }
    ).storage_options
    assert found == {"aws_secret_access_key": "hunter3", "aws_web_identity_token_file": "/run/token"}
