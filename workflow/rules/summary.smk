# The run's figures, each beside what chance would give.


rule summarize:
    input:
        train=run.train,
        targets=[run.targets(name) for name in TARGETS],
        target_features=[
            run.target_features(name, targets)
            for name in CHECKPOINTS
            for targets in TARGETS
        ],
        scores=[run.scores(name) for name in TARGETS],
        tops=[run.top(name) for name in TARGETS],
    output:
        run.summary,
    log:
        log_of("summary"),
    benchmark:
        time_of("summary")
    conda:
        "../envs/trak.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
        gpu=0,
    params:
        **step("summarize"),
    message:
        "summary: {output}"
    shell:
        "trak-steps summarize {params.settings} > {log} 2>&1"


rule summary:
    input:
        run.summary,
    message:
        "summary: done"
