# The kernel of each checkpoint, summed over its shards. A job has all checkpoints of a training, or an imported one.


rule kernel:
    input:
        train=prepared(run.train),
        shards=train_features,
        also=brought_for_shards(),
    output:
        [whole(run.kernel(name)) for name in of_job("{training}")],
    log:
        log_of("kernel/{training}"),
    benchmark:
        time_of("kernel/{training}")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("kernel"),
        runtime=60,
        gpu=gpus("kernel"),
    params:
        **step("kernel"),
        output_code=MODEL_OUTPUT,
    message:
        "kernel: training {wildcards.training}"
    shell:
        "trak-steps kernel --training {wildcards.training} {params.settings} > {log} 2>&1"


rule kernels:
    input:
        [made(run.kernel(name)) for name in CHECKPOINTS],
    message:
        "kernels: done"
