# The kernel of each checkpoint, summed over its shards.


rule kernel:
    input:
        train=ancient(run.train),
        shards=train_shards,
    output:
        directory(run.kernel("{checkpoint}")),
    log:
        log_of("kernel/{checkpoint}"),
    benchmark:
        time_of("kernel/{checkpoint}")
    conda:
        "../envs/trak.yaml"
    threads: settings.execution.threads
    resources:
        mem_mb=memory,
        runtime=60,
        gpu=GPU,
    params:
        **step("kernel"),
        output_code=MODEL_OUTPUT,
    message:
        "kernel: checkpoint {wildcards.checkpoint}"
    shell:
        "trak-steps kernel --checkpoint {wildcards.checkpoint} {params.settings} > {log} 2>&1"


rule kernels:
    input:
        [run.kernel(name) for name in CHECKPOINTS],
    message:
        "kernels: done"
