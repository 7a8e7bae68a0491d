"""The four dashboards: what a team looks at, from all experiments down to one worker, and the operator beside it."""

from __future__ import annotations

from monitoring.panels import Dashboard, Panel, Variable

_E = '{namespace=~"$namespace", experiment=~"$experiment"}'
_N = '{namespace=~"$namespace"}'
_RATE = "[$__rate_interval]"
_TRAINING = "a run trains"
_EVALUATION = "an evaluation answers rows"
_GPU = "a worker has a GPU"
_API = "an evaluation asks an API"
_NAMESPACE = Variable("namespace", "rapidfire_runs", "namespace")
_EXPERIMENT = Variable("experiment", "rapidfire_runs", "experiment", '{namespace=~"$namespace"}')


def _and(more: str) -> str:
    """Return the selector of the chosen experiments with one more matcher."""
    return _E[:-1] + ", " + more + "}"


def _quantiles(metric: str, where: str, by: str = "", legend: str = "") -> dict[str, str]:
    """Return the median and the 95th percentile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return {
        f"{name}{legend}": f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{where}{_RATE})))"
        for name, share in (("median", 0.5), ("95 %", 0.95))
    }


def _rate(series: str, by: str, where: str = _E) -> str:
    return f"sum by ({by}) (rate({series}{where}{_RATE}))"


_TOKENS = Panel(
    "Tokens per second",
    "Trained (where TRL logs num_tokens), read by evaluations (prompt) and written by them (completion).",
    {"{{kind}}": _rate("rapidfire_worker_tokens_total", "kind")},
    stacked=True,
)
_GPU_MEMORY = Panel(
    "GPU memory",
    "By whichever process, as the driver says.",
    {
        "{{worker}} {{gpu}} used": f"rapidfire_worker_gpu_memory_used_bytes{_E}",
        "{{worker}} {{gpu}} total": f"rapidfire_worker_gpu_memory_total_bytes{_E}",
    },
    unit="bytes",
    sometimes=_GPU,
)
_GPU_LOAD = Panel(
    "GPU utilisation",
    "Part of the time in which a kernel ran. Low beside many warm runs: look at swap times and step times.",
    {"{{worker}} {{gpu}}": f"rapidfire_worker_gpu_utilisation_ratio{_E}"},
    unit="percentunit",
    most=1,
    sometimes=_GPU,
)
_ENDS = Panel(
    "Assignments by end",
    "Lost ones were begun and never committed: their workers died. Each is given out again.",
    {"{{end}}": f"sum by (end) (increase(rapidfire_assignments_ended_total{_E}{_RATE}))"},
    stacked=True,
)

FLEET = Dashboard(
    "fleet",
    "RapidFire AI / Fleet",
    "All experiments, workers and services of the cluster.",
    (_NAMESPACE, _EXPERIMENT),
    (
        (
            "Experiments",
            (
                Panel(
                    "Experiments by state",
                    "How many experiments are in each state now.",
                    {"{{state}}": f"sum by (state) (rapidfire_experiment_state{_E})"},
                    kind="bar",
                    width=6,
                ),
                Panel(
                    "Workers ready",
                    "Workers that take assignments, of the slots that have a Job.",
                    {
                        "ready": f"sum(rapidfire_workers_ready{_E})",
                        "slots": f"sum(rapidfire_worker_slots{_E})",
                    },
                    kind="number",
                    width=6,
                ),
                Panel(
                    "Chunks committed",
                    "Of all experiments that are there.",
                    {
                        "done": f"sum(rapidfire_chunks_done{_E})",
                        "all": f"sum(rapidfire_chunks{_E})",
                    },
                    kind="number",
                    width=6,
                ),
                Panel(
                    "Alerts that fire",
                    "Of this project's rules.",
                    {"{{alertname}}": 'count by (alertname) (ALERTS{alertname=~"Rapidfire.*", alertstate="firing"})'},
                    kind="number",
                    width=6,
                    limits=((1, "red"),),
                    sometimes="an alert fires",
                ),
                Panel(
                    "Runs by state",
                    "Pending runs wait for their turn or for a worker.",
                    {"{{state}}": f"sum by (state) (rapidfire_runs{_E})"},
                    stacked=True,
                ),
                Panel(
                    "Chunks per minute",
                    "Committed ones, by experiment.",
                    {"{{experiment}}": f"60 * {_rate('rapidfire_assignments_ended_total', 'experiment')}"},
                    stacked=True,
                ),
                _ENDS,
            ),
        ),
        (
            "Workers",
            (
                _TOKENS,
                Panel(
                    "Memory against budget",
                    "What models and sessions of a worker hold, as part of what they may; on the GPU if it has one.",
                    {
                        "{{worker}}": f"rapidfire_worker_memory_used_bytes{_E} / "
                        f"(rapidfire_worker_memory_budget_bytes{_E} > 0)"
                    },
                    unit="percentunit",
                    most=1,
                    limits=((0.95, "red"),),
                ),
                Panel(
                    "Evictions",
                    "Warm sessions that had to leave for others. Many of them: fewer runs at a time, or more memory.",
                    {"{{experiment}}": f"sum by (experiment) (increase(rapidfire_worker_evictions_total{_E}{_RATE}))"},
                ),
                _GPU_LOAD,
                _GPU_MEMORY,
            ),
        ),
        (
            "Volume service",
            (
                Panel(
                    "Volume free",
                    "Part of the volume that is free; alerts fire at 10 % and 3 %.",
                    {
                        "{{namespace}}": f"min by (namespace) (rapidfire_volume_free_bytes{_N} / "
                        f"rapidfire_volume_size_bytes{_N})"
                    },
                    unit="percentunit",
                    most=1,
                    limits=((0, "red"), (0.1, "green")),
                ),
                Panel(
                    "Uploads and clean-up",
                    "Bytes that users sent, and bytes that the clean-up removed, by reason.",
                    {
                        "uploaded {{kind}}": _rate("rapidfire_volume_upload_bytes_total", "kind", _N),
                        "removed {{reason}}": _rate("rapidfire_volume_removed_bytes_total", "reason", _N),
                    },
                    unit="Bps",
                    sometimes="somebody uploads, or something is removed",
                ),
                Panel(
                    "MLflow's outbox",
                    "Log lines that MLflow has not got yet; nothing is lost while it is away.",
                    {
                        "waiting": f"sum(rapidfire_volume_mlflow_outbox_bytes{_N})",
                    },
                    unit="bytes",
                ),
            ),
        ),
        (
            "Gateway",
            (
                Panel(
                    "Requests",
                    "By the template of their route.",
                    {"{{method}} {{route}}": _rate("rapidfire_gateway_requests_total", "method, route", "")},
                    unit="reqps",
                    sometimes="somebody asks the gateway",
                ),
                Panel(
                    "Errors",
                    "Answers of 400 and more: 4xx are the callers', 5xx the cluster's.",
                    {
                        "{{code}} {{route}}": _rate(
                            "rapidfire_gateway_requests_total", "code, route", '{code=~"4..|5.."}'
                        )
                    },
                    unit="reqps",
                    sometimes="a request is refused",
                ),
                Panel(
                    "Time to the answer",
                    "Until an answer begins; streams go on after it.",
                    _quantiles("rapidfire_gateway_request_seconds", ""),
                    unit="s",
                    sometimes="somebody asks the gateway",
                ),
                Panel(
                    "Live feeds",
                    "Experiments that somebody watches, once for each caller.",
                    {
                        "feeds": "sum(rapidfire_gateway_feeds)",
                        "requests under way": "sum(rapidfire_gateway_requests_under_way)",
                    },
                ),
            ),
        ),
    ),
)

EXPERIMENT = Dashboard(
    "experiment",
    "RapidFire AI / Experiment",
    "How an experiment's runs compare, how far they are, and what they cost.",
    (_NAMESPACE, _EXPERIMENT),
    (
        (
            "Progress",
            (
                Panel(
                    "Chunks done",
                    "Part of all chunks that is committed.",
                    {
                        "{{experiment}}": f"sum by (experiment) (rapidfire_chunks_done{_E}) / "
                        f"sum by (experiment) (rapidfire_chunks{_E} > 0)"
                    },
                    unit="percentunit",
                    most=1,
                    kind="bar",
                    width=6,
                ),
                Panel(
                    "State",
                    "The state of each experiment.",
                    {"{{experiment}} {{state}}": f"rapidfire_experiment_state{_E} == 1"},
                    kind="number",
                    width=6,
                ),
                Panel(
                    "Runs by state",
                    "Where the runs are.",
                    {"{{state}}": f"sum by (state) (rapidfire_runs{_E})"},
                    stacked=True,
                    width=6,
                ),
                Panel(
                    "Workers",
                    "Ready workers, slots with a Job, and chunks given out.",
                    {
                        "ready": f"sum(rapidfire_workers_ready{_E})",
                        "slots": f"sum(rapidfire_worker_slots{_E})",
                        "assignments": f"sum(rapidfire_assignments{_E})",
                    },
                    width=6,
                ),
            ),
        ),
        (
            "Curves",
            (
                Panel(
                    "Training loss",
                    "The latest that the trainer logged, by run.",
                    {"{{run}}": f"max by (run) (rapidfire_worker_loss{_E})"},
                    unit="none",
                    sometimes=_TRAINING,
                ),
                Panel(
                    "Evaluation loss",
                    "On the same rows for every run, at each chunk's end.",
                    {"{{run}}": f"max by (run) (rapidfire_worker_eval_loss{_E})"},
                    unit="none",
                    sometimes="a run with an evaluation set ends a chunk",
                ),
                Panel(
                    "Learning rate",
                    "By run.",
                    {"{{run}}": f"max by (run) (rapidfire_worker_learning_rate{_E})"},
                    unit="none",
                    sometimes=_TRAINING,
                ),
            ),
        ),
        (
            "Speed",
            (
                _TOKENS,
                Panel(
                    "Time of a step",
                    "One optimizer step, or one answered row.",
                    _quantiles("rapidfire_worker_step_seconds", _E),
                    unit="s",
                ),
                Panel(
                    "Time of an assignment",
                    "By task: prepare, index, chunk.",
                    _quantiles("rapidfire_worker_chunk_seconds", _E, "task", " {{task}}"),
                    unit="s",
                ),
                Panel(
                    "Rows answered",
                    "Of evaluations; failed ones are tried again.",
                    {
                        "answered": f"sum(rate(rapidfire_worker_rows_answered_total{_E}{_RATE}))",
                        "failed": f"sum(rate(rapidfire_worker_rows_failed_total{_E}{_RATE}))",
                    },
                    unit="cps",
                ),
                Panel(
                    "Spent on APIs",
                    "By the prices of the configs, since the workers began.",
                    {"{{experiment}}": f"sum by (experiment) (rapidfire_worker_provider_spend_dollars_total{_E})"},
                    unit="currencyUSD",
                ),
            ),
        ),
        (
            "Trouble",
            (
                Panel(
                    "Attempts by end",
                    "As the workers saw them.",
                    {"{{outcome}}": f"sum by (outcome) (increase(rapidfire_worker_attempts_total{_E}{_RATE}))"},
                    stacked=True,
                ),
                _ENDS,
                Panel(
                    "Evictions",
                    "Warm sessions that had to leave for others.",
                    {"{{worker}}": f"sum by (worker) (increase(rapidfire_worker_evictions_total{_E}{_RATE}))"},
                ),
            ),
        ),
    ),
)

_W = _and('worker=~"$worker"')
WORKER = Dashboard(
    "worker",
    "RapidFire AI / Worker",
    "What each worker does with its time and memory.",
    (
        _NAMESPACE,
        _EXPERIMENT,
        Variable("worker", "rapidfire_worker_assignments", "worker", '{experiment=~"$experiment"}'),
    ),
    (
        (
            "Work",
            (
                Panel(
                    "Assignments held",
                    "One is computed, a second one waits, so that a worker never waits for the operator.",
                    {"{{worker}}": f"rapidfire_worker_assignments{_W}"},
                ),
                Panel(
                    "Time of a step",
                    "One optimizer step, or one answered row.",
                    _quantiles("rapidfire_worker_step_seconds", _W, "worker", " {{worker}}"),
                    unit="s",
                ),
                Panel(
                    "Tokens per second",
                    "By worker and kind.",
                    {"{{worker}} {{kind}}": _rate("rapidfire_worker_tokens_total", "worker, kind", _W)},
                ),
                Panel(
                    "Attempts by end",
                    "Failed ones are the runs' own errors.",
                    {"{{worker}} {{outcome}}": f"sum by (worker, outcome) (rapidfire_worker_attempts_total{_W})"},
                ),
                Panel(
                    "CPU",
                    "Cores that the process uses.",
                    {"{{worker}}": _rate("process_cpu_seconds_total", "worker", _W)},
                ),
                Panel(
                    "API server did not answer",
                    "Requests of the worker to the API server. It leaves by itself if its Lease cannot be renewed.",
                    {"{{worker}}": f"sum by (worker) (increase(rapidfire_worker_api_errors_total{_W}{_RATE}))"},
                ),
            ),
        ),
        (
            "Swapping",
            (
                Panel(
                    "Time to change runs",
                    "The mean, by kind. Warm ones cost a hand-over between threads; they save restore and build.",
                    {
                        "{{kind}}": f"{_rate('rapidfire_worker_swap_seconds_sum', 'kind', _W)} / "
                        f"({_rate('rapidfire_worker_swap_seconds_count', 'kind', _W)} > 0)"
                    },
                    unit="s",
                ),
                Panel(
                    "Changes of runs",
                    "How often, by kind.",
                    {"{{kind}}": f"sum by (kind) (increase(rapidfire_worker_swap_seconds_count{_W}{_RATE}))"},
                    stacked=True,
                ),
                Panel(
                    "Checkpoints",
                    "Time to make one durable, while the next chunk computes.",
                    _quantiles("rapidfire_worker_checkpoint_seconds", _W),
                    unit="s",
                ),
                Panel(
                    "Bytes of checkpoints",
                    "Written by all workers.",
                    {"{{worker}}": _rate("rapidfire_worker_checkpoint_bytes_total", "worker", _W)},
                    unit="Bps",
                ),
            ),
        ),
        (
            "Memory",
            (
                Panel(
                    "Warm sessions",
                    "Runs that go on without a reload.",
                    {"{{worker}}": f"rapidfire_worker_residents{_W}"},
                ),
                Panel(
                    "Memory",
                    "What the process holds where its models are, what warm sessions are of it, and what it may hold.",
                    {
                        "{{worker}} used": f"rapidfire_worker_memory_used_bytes{_W}",
                        "{{worker}} sessions": f"rapidfire_worker_resident_bytes{_W}",
                        "{{worker}} budget": f"rapidfire_worker_memory_budget_bytes{_W}",
                    },
                    unit="bytes",
                ),
                Panel(
                    "Main memory",
                    "Of the process, as the kernel counts it.",
                    {"{{worker}}": f"process_resident_memory_bytes{_W}"},
                    unit="bytes",
                ),
                _GPU_LOAD,
                _GPU_MEMORY,
            ),
        ),
        (
            "Evaluations",
            (
                Panel(
                    "Time of a batch",
                    "From asking to the last answer.",
                    _quantiles("rapidfire_worker_batch_seconds", _W),
                    unit="s",
                    sometimes=_EVALUATION,
                ),
                Panel(
                    "Rows",
                    "Answered and failed.",
                    {
                        "answered": f"sum(rate(rapidfire_worker_rows_answered_total{_W}{_RATE}))",
                        "failed": f"sum(rate(rapidfire_worker_rows_failed_total{_W}{_RATE}))",
                    },
                    unit="cps",
                ),
                Panel(
                    "Indexes of documents",
                    "Time to build one, and pieces that were indexed.",
                    _quantiles("rapidfire_worker_index_seconds", _W),
                    unit="s",
                    sometimes="an index is built",
                ),
                Panel(
                    "Requests to APIs",
                    "By end; limited ones were answered 429 and are tried again.",
                    {"{{end}}": _rate("rapidfire_worker_provider_requests_total", "end", _W)},
                    unit="reqps",
                    stacked=True,
                    sometimes=_API,
                ),
                Panel(
                    "Time of an API's answer",
                    "Of requests that were answered.",
                    _quantiles("rapidfire_worker_provider_seconds", _W),
                    unit="s",
                    sometimes=_API,
                ),
                Panel(
                    "Second tries",
                    "Requests to APIs that were tried again.",
                    {"{{worker}}": f"sum by (worker) (increase(rapidfire_worker_provider_retries_total{_W}{_RATE}))"},
                ),
            ),
        ),
    ),
)

OPERATOR = Dashboard(
    "operator",
    "RapidFire AI / Operator",
    "Whether the operator keeps up, and what it asks of the API server.",
    (),
    (
        (
            "Leadership and pace",
            (
                Panel(
                    "Leaders",
                    "Exactly one operator leads; the others stand by.",
                    {"leading": "sum(rapidfire_operator_leader)", "operators": "count(rapidfire_operator_leader)"},
                    kind="number",
                    width=6,
                ),
                Panel(
                    "Longest look under way",
                    "A look that takes minutes hangs, and the operator is restarted.",
                    {"seconds": "max(rapidfire_oldest_pass_seconds)"},
                    unit="s",
                    kind="number",
                    width=6,
                    limits=((30, "orange"), (120, "red")),
                ),
                Panel(
                    "Last comparison",
                    "How long ago the operator compared its picture with the API server's lists.",
                    {"ago": "max(rapidfire_comparison_age_seconds)"},
                    unit="s",
                    kind="number",
                    width=6,
                    limits=((120, "orange"), (240, "red")),
                ),
                Panel(
                    "MLflow in step",
                    "How long ago MLflow had all experiments and runs.",
                    {"ago": "time() - max(rapidfire_mlflow_in_step_timestamp_seconds > 0)"},
                    unit="s",
                    kind="number",
                    width=6,
                    limits=((300, "orange"), (900, "red")),
                    sometimes="MLflow answered once",
                ),
                Panel(
                    "Lag",
                    "From the first change that was seen to the end of the look that took it up.",
                    _quantiles("rapidfire_planner_lag_seconds", ""),
                    unit="s",
                    limits=((5, "red"),),
                ),
                Panel(
                    "Time of a look",
                    "At one experiment, writes included.",
                    _quantiles("rapidfire_reconcile_seconds", ""),
                    unit="s",
                ),
                Panel(
                    "Looks",
                    "Per second.",
                    {"looks": f"sum(rate(rapidfire_reconcile_seconds_count{_RATE}))"},
                    unit="ops",
                ),
            ),
        ),
        (
            "Decisions",
            (
                Panel(
                    "Decisions by kind",
                    "What looks decided to write; a conflict undoes some, and they are decided anew.",
                    {"{{kind}}": _rate("rapidfire_decisions_total", "kind", "")},
                    unit="ops",
                    stacked=True,
                ),
                Panel(
                    "Assignments given out",
                    "By experiment.",
                    {"{{experiment}}": _rate("rapidfire_assignments_granted_total", "experiment", "")},
                    unit="ops",
                    stacked=True,
                ),
                Panel(
                    "Assignments by end",
                    "Lost ones were begun and never committed.",
                    {"{{end}}": _rate("rapidfire_assignments_ended_total", "end", "")},
                    unit="ops",
                    stacked=True,
                ),
                Panel(
                    "IC Ops: accepted after",
                    "From making an ICOp to its first record. Creation times are whole seconds.",
                    _quantiles("rapidfire_icop_accepted_seconds", "", "op", " {{op}}"),
                    unit="s",
                    sometimes="somebody steers a run",
                ),
                Panel(
                    "IC Ops: complete after",
                    "Until it is answered for every run.",
                    _quantiles("rapidfire_icop_complete_seconds", "", "op", " {{op}}"),
                    unit="s",
                    sometimes="somebody steers a run",
                ),
            ),
        ),
        (
            "API server and MLflow",
            (
                Panel(
                    "Requests",
                    "By method and resource.",
                    {"{{method}} {{resource}}": _rate("rapidfire_api_requests_total", "method, resource", "")},
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Refused or not answered",
                    "By code; 409 is a conflict, which is ordinary, 0 no answer.",
                    {"{{code}} {{resource}}": _rate("rapidfire_api_errors_total", "code, resource", "")},
                    unit="reqps",
                    sometimes="a request fails",
                ),
                Panel(
                    "Time of a request",
                    "By resource.",
                    _quantiles("rapidfire_api_request_seconds", "", "resource", " {{resource}}"),
                    unit="s",
                ),
                Panel(
                    "MLflow's errors",
                    "Requests that MLflow refused or did not answer; they are tried again.",
                    {"errors": f"sum(increase(rapidfire_mlflow_errors_total{_RATE}))"},
                ),
                Panel(
                    "Memory",
                    "Of each operator and gateway, as the kernel counts it.",
                    {"{{pod}}": 'process_resident_memory_bytes{pod=~"rapidfire-(operator|gateway)-.*"}'},
                    unit="bytes",
                ),
                Panel(
                    "CPU",
                    "Cores that each operator and gateway uses.",
                    {"{{pod}}": _rate("process_cpu_seconds_total", "pod", '{pod=~"rapidfire-(operator|gateway)-.*"}')},
                ),
            ),
        ),
    ),
)
DASHBOARDS = (FLEET, EXPERIMENT, WORKER, OPERATOR)
