"""The part of ``dagster.yaml`` that says where runs are made, where settings choose a cluster.

On one machine the file of the package says it all. On Kubernetes each run is a Job and each of its steps another
(docs/adr/0011), so that what holds for processes is said of Jobs.
"""

from typing import Any

from ml_platform.settings import KUBERNETES_REQUIRED, Settings


def kubernetes_sections(settings: Settings) -> dict[str, Any]:
    """The sections of ``dagster.yaml`` that are others on Kubernetes; none on one machine.

    Raises:
        ValueError: the image, the service account or the ConfigMap of the instance is not set.
    """
    if not settings.on_kubernetes:
        return {}
    here = settings.kubernetes
    if missing := [variable for variable, name in KUBERNETES_REQUIRED.items() if not getattr(here, name)]:
        raise ValueError(
            f"ML_PLATFORM_EXECUTION is kubernetes, and {', '.join(missing)} not set: set them, or bring a dagster.yaml "
            "of your own with ML_PLATFORM_DAGSTER_YAML"
        )
    config: dict[str, Any] = {
        "job_image": here.image,
        "image_pull_policy": here.image_pull_policy,
        "job_namespace": here.namespace,
        "service_account_name": here.service_account,
        "instance_config_map": here.instance_config_map,
        "dagster_home": str(settings.dagster_home),
        "env_config_maps": list(here.env_config_maps),
        "env_secrets": list(here.env_secrets),
        "load_incluster_config": here.kubeconfig is None,
        # What a pod writes of its own lies in the home, and the image may be read-only everywhere else.
        "volumes": [
            {"name": "home", "empty_dir": {}},
            {"name": "instance", "config_map": {"name": here.instance_config_map}},
        ],
        "volume_mounts": [
            {"name": "home", "mount_path": str(settings.home)},
            {
                "name": "instance",
                "mount_path": str(settings.dagster_home / "dagster.yaml"),
                "sub_path": "dagster.yaml",
                "read_only": True,
            },
        ],
    }
    if here.image_pull_secrets:
        config["image_pull_secrets"] = [{"name": name} for name in here.image_pull_secrets]
    if here.kubeconfig is not None:
        config["kubeconfig_file"] = str(here.kubeconfig)
    return {
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": config},
        "concurrency": {
            "runs": {"max_concurrent_runs": here.runs},
            "pools": {"default_limit": 1, "granularity": "op"},
        },
        "run_monitoring": {
            "enabled": True,
            "poll_interval_seconds": 10,
            # A node may have to be started first, and the image fetched to it.
            "start_timeout_seconds": 900,
            "cancel_timeout_seconds": 180,
            # A run whose pod died fails, and is tried again as a whole: an executor that is to be resumed leaves its
            # steps running when people terminate the run, too.
            "max_resume_run_attempts": 0,
            "free_slots_after_run_end_seconds": 60,
        },
    }
