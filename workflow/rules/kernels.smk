# The kernel of each checkpoint, summed over its shards. A job has all checkpoints of a training, or an imported one.
# Of so many rows that it would take hours, jobs sum parts.


rule sum_kernel:
    input:
        train=prepared(run.train),
        shards=features_of_rows,
        also=brought_for_shards(),
    output:
        [whole(run.kernel_part(name, "{rows}")) for name in of_job("{training}")],
    log:
        log_of("kernel/{training}/{rows}"),
    benchmark:
        time_of("kernel/{training}/{rows}")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("sum-kernel"),
        runtime=120,
        gpu=gpus("sum-kernel"),
    params:
        **step("sum-kernel"),
        output_code=MODEL_OUTPUT,
    message:
        "sum-kernel: training {wildcards.training}, rows {wildcards.rows}"
    shell:
        "trak-steps sum-kernel --training {wildcards.training} --rows {wildcards.rows} "
        "{params.settings} > {log} 2>&1"


rule kernel:
    input:
        train=prepared(run.train),
        shards=summed_in_kernel,
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
