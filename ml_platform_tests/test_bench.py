"""The benchmarks' commands run; how fast is not asked here."""

from pathlib import Path

from ml_platform_tests.bench import benchmarks, measure


def test_the_code_location_and_its_reference_are_loaded(tmp_path: Path) -> None:
    loading = benchmarks()[0]
    for command in (loading.subject, loading.reference):
        found = measure(command, tmp_path)
        assert found.seconds > 0
        assert 0.01 < found.gigabytes < loading.gigabytes
