# Checkpoints: fine-tuned here, several states of a run if asked for, or brought along.

if settings.checkpoints.existing:

    rule import_checkpoint:
        input:
            model=run.model,
            train=ancient(run.train),
            files=lambda wildcards: local_model(
                settings.checkpoints.existing[int(wildcards.checkpoint)]
            ),
        output:
            directory(run.checkpoint("{checkpoint}")),
        log:
            log_of("checkpoints/{checkpoint}"),
        benchmark:
            time_of("checkpoints/{checkpoint}")
        conda:
            "../envs/trak.yaml"
        threads: 1
        resources:
            mem_mb=4000,
            runtime=60,
            gpu=0,
        params:
            **step("import-checkpoint"),
            classes=train_classes,
            source=lambda wildcards: named_source(int(wildcards.checkpoint)),
        message:
            "checkpoint {wildcards.checkpoint}: brought along, into {output}"
        shell:
            "trak-steps import-checkpoint --checkpoint {wildcards.checkpoint} "
            "{params.source} {params.settings} > {log} 2>&1"

else:

    rule finetune:
        input:
            model=run.model,
            train=ancient(run.train),
        output:
            [
                directory(run.checkpoint(state_name("{run}", fraction)))
                for fraction in sorted(settings.checkpoints.keep)
            ],
        log:
            log_of("checkpoints/{run}"),
        benchmark:
            time_of("checkpoints/{run}")
        conda:
            "../envs/trak.yaml"
        threads: settings.execution.threads
        resources:
            mem_mb=memory,
            runtime=240,
            gpu=GPU,
        params:
            **step("finetune"),
            rows=train_rows,
        message:
            "finetune: run {wildcards.run} into {output}"
        shell:
            "trak-steps finetune --run {wildcards.run} {params.settings} > {log} 2>&1"


rule checkpoints:
    input:
        [run.checkpoint(name) for name in CHECKPOINTS],
    message:
        "checkpoints: done"
