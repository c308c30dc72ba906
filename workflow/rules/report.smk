# The run as a page, with what the evaluation found where it is asked for or was made before.


rule report:
    input:
        train=prepared(run.train),
        targets=[prepared(run.targets(name)) for name in TARGETS],
        target_features=target_features(TARGETS),
        shards=first_shards,
        scores=[made(run.scores(name)) for name in TARGETS],
        tops=[run.top(name) for name in TARGETS],
        summary=run.summary,
        provenance=run.provenance,
        evaluation=evaluation_asked_for,
        also=brought(run.model),
    output:
        shown(run.report, "report", "The run", result="page"),
    log:
        log_of("report"),
    benchmark:
        time_of("report")
    threads: 1
    resources:
        mem_mb=memory("report"),
        runtime=30,
        gpu=gpus("report"),
    params:
        **step("report"),
        tables=tables,
        evaluation=evaluation_there,
    message:
        "report: {output}"
    shell:
        "trak-steps report {params.settings} > {log} 2>&1"
