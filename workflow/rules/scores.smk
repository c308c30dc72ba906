# Scores of a target set over all checkpoints, and the top of each target with texts.


rule score:
    input:
        train=ancient(made(run.train)),
        targets=ancient(made(run.targets("{targets}"))),
        shards=train_features,
        target_features=target_features(["{targets}"]),
        kernels=[made(run.kernel(name)) for name in CHECKPOINTS],
    output:
        made(run.scores("{targets}")),
    log:
        log_of("scores/{targets}"),
    benchmark:
        time_of("scores/{targets}")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("score"),
        runtime=120,
        gpu=gpus,
    params:
        **step("score"),
        output_code=MODEL_OUTPUT,
        rows=train_rows,
        target_rows=target_rows,
    message:
        "score: targets {wildcards.targets}"
    shell:
        "trak-steps score --targets {wildcards.targets} {params.settings} > {log} 2>&1"


rule rank:
    input:
        train=ancient(made(run.train)),
        targets=ancient(made(run.targets("{targets}"))),
        scores=made(run.scores("{targets}")),
    output:
        run.top("{targets}"),
    log:
        log_of("scores/{targets}.top"),
    benchmark:
        time_of("scores/{targets}.top")
    threads: 1
    resources:
        mem_mb=memory("rank"),
        runtime=60,
        gpu=0,
    params:
        **step("rank"),
        output_code=MODEL_OUTPUT,
        tables=tables,
    message:
        "rank: targets {wildcards.targets} into {output}"
    shell:
        "trak-steps rank --targets {wildcards.targets} {params.settings} > {log} 2>&1"


rule scores:
    input:
        [made(run.scores(name)) for name in TARGETS],
        [run.top(name) for name in TARGETS],
    message:
        "scores: done"
