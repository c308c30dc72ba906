# Features: gradients of the model output, projected. One job a shard, one a target set.


rule featurize:
    input:
        checkpoint=run.checkpoint("{checkpoint}"),
        train=ancient(run.train),
    output:
        directory(run.train_shard("{checkpoint}", "{shard}")),
    log:
        log_of("features/{checkpoint}/train/{shard}"),
    benchmark:
        time_of("features/{checkpoint}/train/{shard}")
    conda:
        "../envs/trak.yaml"
    threads: settings.execution.threads
    resources:
        mem_mb=memory,
        runtime=240,
        gpu=GPU,
    params:
        **step("featurize"),
        output_code=MODEL_OUTPUT,
        rows=shard_rows,
    message:
        "featurize: checkpoint {wildcards.checkpoint}, shard {wildcards.shard}"
    shell:
        "trak-steps featurize --checkpoint {wildcards.checkpoint} --shard {wildcards.shard} "
        "{params.settings} > {log} 2>&1"


rule featurize_targets:
    input:
        checkpoint=run.checkpoint("{checkpoint}"),
        targets=ancient(run.targets("{targets}")),
    output:
        directory(run.target_features("{checkpoint}", "{targets}")),
    log:
        log_of("features/{checkpoint}/targets/{targets}"),
    benchmark:
        time_of("features/{checkpoint}/targets/{targets}")
    conda:
        "../envs/trak.yaml"
    threads: settings.execution.threads
    resources:
        mem_mb=memory,
        runtime=240,
        gpu=GPU,
    params:
        **step("featurize"),
        output_code=MODEL_OUTPUT,
        rows=target_rows,
    message:
        "featurize: checkpoint {wildcards.checkpoint}, targets {wildcards.targets}"
    shell:
        "trak-steps featurize --checkpoint {wildcards.checkpoint} --targets {wildcards.targets} "
        "{params.settings} > {log} 2>&1"


rule features:
    input:
        lambda wildcards: [
            run.train_shard(name, shard)
            for name in CHECKPOINTS
            for shard in shards(wildcards)
        ],
        [
            run.target_features(name, targets)
            for name in CHECKPOINTS
            for targets in TARGETS
        ],
    message:
        "features: done"
