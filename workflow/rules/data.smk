# The model to fine-tune, and the rows: chosen, labelled, tokenised.


rule model:
    input:
        here(base_files(settings)),
    output:
        whole(run.model),
    log:
        log_of("model"),
    benchmark:
        time_of("model")
    localrule: "model" in FETCH
    threads: 1
    resources:
        mem_mb=memory("model"),
        runtime=60,
        gpu=gpus("model"),
    params:
        **step("model"),
        source=named_source(BASE_MODEL) if IMPORTED else "",
    message:
        "model: {BASE_MODEL}"
    shell:
        "trak-steps model {params.source} {params.settings} > {log} 2>&1"


# Checkpoints because what the rows are, and so what has to run, is only known afterwards.
checkpoint prepare:
    input:
        model=made(run.model),
        files=here(local_files(settings, settings.dataset.train_split)),
    output:
        whole(run.train),
    log:
        log_of("data/train"),
    benchmark:
        time_of("data/train")
    localrule: "prepare" in FETCH
    threads: 1
    resources:
        mem_mb=memory("prepare"),
        runtime=60,
        gpu=gpus("prepare"),
    params:
        **step("prepare"),
    message:
        "prepare: train set"
    shell:
        "trak-steps prepare {params.settings} > {log} 2>&1"


checkpoint prepare_targets:
    input:
        model=made(run.model),
        train=prepared(run.train),
        files=lambda wildcards: here(
            local_files(settings, settings.targets[wildcards.targets].split)
        ),
    output:
        whole(run.targets("{targets}")),
    log:
        log_of("data/targets/{targets}"),
    benchmark:
        time_of("data/targets/{targets}")
    localrule: "prepare-targets" in FETCH
    threads: 1
    resources:
        mem_mb=memory("prepare-targets"),
        runtime=60,
        gpu=gpus("prepare-targets"),
    params:
        **step("prepare-targets"),
        classes=train_classes,
    message:
        "prepare: targets {wildcards.targets}"
    shell:
        "trak-steps prepare-targets --targets {wildcards.targets} {params.settings} > {log} 2>&1"


rule data:
    input:
        made(run.train),
        [made(run.targets(name)) for name in TARGETS],
    message:
        "data: done"
