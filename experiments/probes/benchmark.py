"""The package's own benchmark, `mmccd benchmark`, which trains and measures every method of the paper."""

from __future__ import annotations

from typing import Any

from evidence import Job

from mmccd.benchmark.plan import Plan
from mmccd.benchmark.run import run_benchmark


def run(options: dict[str, Any], job: Job) -> dict[str, Any]:
    """What `mmccd benchmark` writes into benchmark.json; its folder, with tables and figures, stays in the job's."""
    plan = Plan(job.work / f"benchmark-{options['preset']}", device=job.device, **options)
    command = f"mmccd benchmark --preset {plan.preset} --out benchmark"
    result = run_benchmark(plan, job.jobs, command=command)
    return {k: v for k, v in result.items() if k not in ("command", "date", "device", "torch", "mmccd")}
