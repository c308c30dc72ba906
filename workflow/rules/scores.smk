# Scores of a target set over all checkpoints, part by part, and the top of each target with texts.


rule sum_weighted:
    input:
        train=prepared(run.train),
        shards=features_of_rows,
        also=brought_for_shards(),
    output:
        whole(run.weighted_sums("{rows}")),
    log:
        log_of("sums/{rows}"),
    benchmark:
        time_of("sums/{rows}")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("sum-weighted"),
        runtime=120,
        gpu=gpus("sum-weighted"),
    params:
        **step("sum-weighted"),
        output_code=MODEL_OUTPUT,
    message:
        "sum-weighted: rows {wildcards.rows}"
    shell:
        "trak-steps sum-weighted --rows {wildcards.rows} {params.settings} > {log} 2>&1"


rule calibrate:
    input:
        train=prepared(run.train),
        shards=train_features,
        sums=weighted_sums,
        kernels=[made(run.kernel(name)) for name in CHECKPOINTS],
        also=brought_for_shards(),
    output:
        whole(run.calibration),
    log:
        log_of("calibration"),
    benchmark:
        time_of("calibration")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("calibrate"),
        runtime=120,
        gpu=gpus("calibrate"),
    params:
        **step("calibrate"),
        output_code=MODEL_OUTPUT,
        rows=train_rows,
    message:
        "calibrate: the unit of scores"
    shell:
        "trak-steps calibrate {params.settings} > {log} 2>&1"


rule score:
    input:
        train=prepared(run.train),
        targets=prepared(run.targets("{targets}")),
        calibration=made(run.calibration),
        shards=features_of_part,
        target_features=target_features(["{targets}"]),
        kernels=[made(run.kernel(name)) for name in CHECKPOINTS],
        also=brought_for_shards(),
    output:
        whole(run.score_part("{targets}", "{part}")),
    log:
        log_of("scores/{targets}/{part}"),
    benchmark:
        time_of("scores/{targets}/{part}")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("score"),
        runtime=120,
        gpu=gpus("score"),
    params:
        **step("score"),
        output_code=MODEL_OUTPUT,
        listed=rows_listed(settings.scores.top),
        rows=train_rows,
        target_rows=target_rows,
    message:
        "score: targets {wildcards.targets}, part {wildcards.part}"
    shell:
        "trak-steps score --targets {wildcards.targets} --part {wildcards.part} "
        "--listed {params.listed} {params.settings} > {log} 2>&1"


rule gather:
    input:
        train=prepared(run.train),
        targets=prepared(run.targets("{targets}")),
        calibration=made(run.calibration),
        parts=score_parts,
        also=brought_for_shards(),
    output:
        whole(run.scores("{targets}")),
    log:
        log_of("scores/{targets}"),
    benchmark:
        time_of("scores/{targets}")
    threads: 1
    resources:
        mem_mb=memory("gather"),
        runtime=60,
        gpu=gpus("gather"),
    params:
        **step("gather"),
        output_code=MODEL_OUTPUT,
        listed=rows_listed(settings.scores.top),
        rows=train_rows,
        target_rows=target_rows,
    message:
        "gather: targets {wildcards.targets} into {output}"
    shell:
        "trak-steps gather --targets {wildcards.targets} --listed {params.listed} "
        "{params.settings} > {log} 2>&1"


rule rank:
    input:
        train=prepared(run.train),
        targets=prepared(run.targets("{targets}")),
        scores=made(run.scores("{targets}")),
    output:
        shown(
            run.top("{targets}"),
            "top",
            "Scores",
            targets="{targets}",
            result="strongest rows",
        ),
    log:
        log_of("scores/{targets}.top"),
    benchmark:
        time_of("scores/{targets}.top")
    threads: 1
    resources:
        mem_mb=memory("rank"),
        runtime=60,
        gpu=gpus("rank"),
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
