"""``<model>/champion``: the version that predicts, the gates' decision on the newest candidate, and people's decisions.

A decision is made once for each version: by the gates when the asset is first materialised after its evaluation, and by
people through jobs that ask for a reason and a person.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from ml_platform.assets.model_identity import ModelIdentity
from ml_platform.resources.platform import Platform


def champion_asset(model: ModelIdentity) -> dg.AssetsDefinition:
    """``<model>/champion``: the version that predicts, and the decision on the newest candidate."""
    spec = model.spec

    @dg.multi_asset(
        name=f"{spec.name}__champion",
        specs=[
            model.asset(
                "champion",
                "The version that predicts. A candidate takes its place only if every declared gate holds; either way "
                "the decision and its reason go to the ledger.",
                {"mlflow"},
                [model.key("evaluation_report")],
                automation_condition=model.follows(),
            )
        ],
        can_subset=True,
        op_tags=model.op_tags("champion"),
    )
    def champion(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
        from ml_platform.assets.steps.champion import decide_on_candidate

        yield from decide_on_candidate(context, platform, model)

    return champion


class DecisionConfig(dg.Config):
    """What a person decides, as the Launchpad asks for it."""

    reason: str = Field(description="Why, in your words. It goes to the ledger.")
    person: str = Field(description="On whose word. It goes to the ledger.")
    version: int | None = Field(
        default=None,
        description="Which version: by default the newest that waits, and for a rollback the champion before this one.",
    )


_VERDICTS = {
    "promote": "Make a candidate champion that passed its gates and waits for approval.",
    "reject": "Refuse a candidate that waits for approval: the champion stays.",
    "rollback": "Make an earlier champion the champion again.",
}


def decision_job_name(model: str, verdict: str) -> str:
    """Name of the job by which a person decides; ``verdict`` is promote, reject or rollback."""
    return f"{model}_{verdict}"


def decision_jobs(model: ModelIdentity) -> list[dg.JobDefinition]:
    """Promote, reject and roll back, as jobs whose Launchpad asks for a reason and a person."""
    return [_decision_job(model, verdict, description) for verdict, description in _VERDICTS.items()]


def _decision_job(model: ModelIdentity, verdict: str, description: str) -> dg.JobDefinition:
    spec, name = model.spec, decision_job_name(model.spec.name, verdict)

    @dg.op(name=f"{name}_decision", description=description)
    def decision(context: dg.OpExecutionContext, config: DecisionConfig, platform: Platform) -> None:
        from ml_platform.assets.steps.champion import decide_by_hand

        decide_by_hand(context, platform, model, verdict, config)

    @dg.job(
        name=name,
        description=description,
        tags={"model": spec.name, "ml_platform/reason": f"a person asked: {verdict}"},
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        decision()

    return job
