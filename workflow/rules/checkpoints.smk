# Checkpoints: fine-tuned here, intermediate ones too, or imported.

if IMPORTED:

    rule import_checkpoint:
        input:
            model=made(run.model),
            train=prepared(run.train),
            files=lambda wildcards: here(imported_files(IMPORTED[wildcards.training])),
        output:
            whole(run.checkpoint("{training}")),
        log:
            log_of("checkpoints/{training}"),
        benchmark:
            time_of("checkpoints/{training}")
        localrule: "import-checkpoint" in FETCH
        threads: 1
        resources:
            mem_mb=memory("import-checkpoint"),
            runtime=60,
            gpu=gpus("import-checkpoint"),
        params:
            **step("import-checkpoint"),
            classes=train_classes,
            first=first_rows,
            source=lambda wildcards: named_source(IMPORTED[wildcards.training]),
        message:
            "import-checkpoint: {wildcards.training}"
        shell:
            "trak-steps import-checkpoint --checkpoint {wildcards.training} "
            "{params.source} {params.settings} > {log} 2>&1"

else:

    rule finetune:
        input:
            model=made(run.model),
            train=prepared(run.train),
        output:
            [whole(run.checkpoint(name)) for name in of_job("{training}")],
        log:
            log_of("checkpoints/{training}"),
        benchmark:
            time_of("checkpoints/{training}")
        threads: settings.execution.threads
        resources:
            mem_mb=memory("finetune"),
            runtime=240,
            gpu=gpus("finetune"),
        params:
            **step("finetune"),
            rows=train_rows,
        message:
            "finetune: training {wildcards.training}"
        shell:
            "trak-steps finetune --training {wildcards.training} {params.settings} > {log} 2>&1"


rule checkpoints:
    input:
        [made(run.checkpoint(name)) for name in CHECKPOINTS],
    message:
        "checkpoints: done"
