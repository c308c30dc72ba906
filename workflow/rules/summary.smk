# The run's figures, each beside what chance would give.


rule summarize:
    input:
        train=prepared(run.train),
        targets=[prepared(run.targets(name)) for name in TARGETS],
        target_features=target_features(TARGETS),
        scores=[made(run.scores(name)) for name in TARGETS],
        tops=[run.top(name) for name in TARGETS],
    output:
        shown(run.summary, "summary", "The run", result="figures"),
    log:
        log_of("summary"),
    benchmark:
        time_of("summary")
    threads: 1
    resources:
        mem_mb=memory("summarize"),
        runtime=30,
        gpu=gpus("summarize"),
    params:
        **step("summarize"),
        tables=tables,
    message:
        "summary: {output}"
    shell:
        "trak-steps summarize {params.settings} > {log} 2>&1"


rule provenance:
    input:
        checkpoints=[made(run.checkpoint(name)) for name in CHECKPOINTS],
        shards=train_features,
        kernels=[made(run.kernel(name)) for name in CHECKPOINTS],
        calibration=made(run.calibration),
        sums=all_sums,
        parts=score_parts,
        train=prepared(run.train),
        targets=[prepared(run.targets(name)) for name in TARGETS],
        summary=run.summary,
        also=brought(
            run.model,
            *[run.target_features(name, of) for name in CHECKPOINTS for of in TARGETS],
            *map(run.scores, TARGETS),
        ),
        tops=list(map(run.top, TARGETS)) if storage_of_run else [],
    output:
        shown(run.provenance, "provenance", "The run", result="provenance"),
    log:
        log_of("provenance"),
    benchmark:
        time_of("provenance")
    threads: 1
    resources:
        mem_mb=memory("provenance"),
        runtime=30,
        gpu=gpus("provenance"),
    params:
        **step("provenance"),
        seals=seals,
    message:
        "provenance: {output}"
    shell:
        "trak-steps provenance {params.settings} > {log} 2>&1"


rule summary:
    input:
        run.summary,
        run.provenance,
    message:
        "summary: done"
