"""The platform beside its references: what is measured, how, and what is said of it.

Belongs here: benchmarks and the workloads they run, each a process of its own. No test is judged by the clock:
:mod:`ml_platform.benchmarks.suite` says what is measured beside what and what it must reach, ``ml-platform bench``
measures it, and :mod:`ml_platform.benchmarks.report` tells it.
"""
