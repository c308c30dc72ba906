# Features: gradients of the model output, projected. A job has all checkpoints of a training, or an imported one.


rule featurize:
    input:
        checkpoints=[made(run.checkpoint(name)) for name in of_job("{training}")],
        train=prepared(run.train),
        also=brought_for_shards(),
    output:
        [whole(run.train_shard(name, "{shard}")) for name in of_job("{training}")],
    log:
        log_of("features/{training}/train/{shard}"),
    benchmark:
        time_of("features/{training}/train/{shard}")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("featurize"),
        runtime=240,
        gpu=gpus("featurize"),
    params:
        **step("featurize"),
        output_code=MODEL_OUTPUT,
        rows=shard_rows,
    message:
        "featurize: training {wildcards.training}, shard {wildcards.shard}"
    shell:
        "trak-steps featurize --training {wildcards.training} --shard {wildcards.shard} "
        "{params.settings} > {log} 2>&1"


rule featurize_targets:
    input:
        checkpoints=[made(run.checkpoint(name)) for name in of_job("{training}")],
        targets=prepared(run.targets("{targets}")),
    output:
        [whole(run.target_features(name, "{targets}")) for name in of_job("{training}")],
    log:
        log_of("features/{training}/targets/{targets}"),
    benchmark:
        time_of("features/{training}/targets/{targets}")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("featurize"),
        runtime=240,
        gpu=gpus("featurize"),
    params:
        **step("featurize"),
        output_code=MODEL_OUTPUT,
        rows=target_rows,
    message:
        "featurize: training {wildcards.training}, targets {wildcards.targets}"
    shell:
        "trak-steps featurize --training {wildcards.training} --targets {wildcards.targets} "
        "{params.settings} > {log} 2>&1"


rule features:
    input:
        train_features,
        target_features(TARGETS),
    message:
        "features: done"
