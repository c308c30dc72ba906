# Whether the scores can be trusted: models retrained on parts of the train set.

if IMPORTED:

    rule check_recipe:
        input:
            model=made(run.model),
            train=prepared(run.train),
            targets=[prepared(run.targets(name)) for name in TARGETS],
            target_features=[
                made(run.target_features(name, TARGETS[0])) for name in LAST
            ],
            also=brought(*map(run.checkpoint, LAST)),
        output:
            shown(run.recipe, "recipe", "Evaluation", result="recipe"),
        log:
            log_of("evaluation/recipe"),
        benchmark:
            time_of("evaluation/recipe")
        threads: settings.execution.threads
        resources:
            mem_mb=memory("check-recipe"),
            runtime=240,
            gpu=gpus("check-recipe"),
        params:
            **step("check-recipe"),
            output_code=MODEL_OUTPUT,
            rows=train_rows,
            target_rows=all_target_rows,
        message:
            "check-recipe: models on all rows, against those imported"
        shell:
            "trak-steps check-recipe {params.settings} > {log} 2>&1"


rule plan_subsets:
    input:
        RECIPE,
        train=prepared(run.train),
    output:
        run.plan("subsets"),
    log:
        log_of("evaluation/subsets.plan"),
    benchmark:
        time_of("evaluation/subsets.plan")
    threads: 1
    resources:
        mem_mb=memory("plan-subsets"),
        runtime=30,
        gpu=gpus("plan-subsets"),
    params:
        **step("plan-subsets"),
        rows=train_rows,
    message:
        "evaluation: random subsets into {output}"
    shell:
        "trak-steps plan-subsets {params.settings} > {log} 2>&1"


rule plan_removal:
    input:
        RECIPE,
        train=prepared(run.train),
        targets=[prepared(run.targets(name)) for name in TARGETS],
        checkpoint=made(run.checkpoint(LAST[0])),
        shards=train_features,
        target_features=target_features(TARGETS[:1]),
        kernels=[made(run.kernel(name)) for name in CHECKPOINTS],
        calibration=made(run.calibration),
        also=brought_for_shards(),
    output:
        run.plan("removal"),
    log:
        log_of("evaluation/removal.plan"),
    benchmark:
        time_of("evaluation/removal.plan")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("plan-removal"),
        runtime=60,
        gpu=gpus("plan-removal"),
    params:
        **step("plan-removal"),
        output_code=MODEL_OUTPUT,
        rows=train_rows,
        target_rows=all_target_rows,
    message:
        "evaluation: rows to leave out into {output}"
    shell:
        "trak-steps plan-removal {params.settings} > {log} 2>&1"


rule retrain_subsets:
    input:
        model=made(run.model),
        train=prepared(run.train),
        targets=[prepared(run.targets(name)) for name in TARGETS],
        plan=run.plan("subsets"),
        recipe=RECIPE if storage_of_run else [],
    output:
        run.retrained("subsets", "{shard}"),
    log:
        log_of("evaluation/retrained/subsets/{shard}"),
    benchmark:
        time_of("evaluation/retrained/subsets/{shard}")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("retrain-subsets"),
        runtime=480,
        gpu=gpus("retrain-subsets"),
    params:
        **step("retrain-subsets"),
        output_code=MODEL_OUTPUT,
        rows=train_rows,
        target_rows=all_target_rows,
        plan="subsets",
    message:
        "retrain: models of the plan subsets, part {wildcards.shard}"
    shell:
        "trak-steps retrain --plan {params.plan} --shard {wildcards.shard} "
        "{params.settings} > {log} 2>&1"


use rule retrain_subsets as retrain_removal with:
    input:
        model=made(run.model),
        train=prepared(run.train),
        targets=[prepared(run.targets(name)) for name in TARGETS],
        plan=run.plan("removal"),
        recipe=RECIPE if storage_of_run else [],
    output:
        run.retrained("removal", "{shard}"),
    log:
        log_of("evaluation/retrained/removal/{shard}"),
    benchmark:
        time_of("evaluation/retrained/removal/{shard}")
    params:
        **step("retrain-removal"),
        output_code=MODEL_OUTPUT,
        rows=train_rows,
        target_rows=all_target_rows,
        plan="removal",
    message:
        "retrain: models of the plan removal, part {wildcards.shard}"


rule measure_lds:
    input:
        train=prepared(run.train),
        targets=[prepared(run.targets(name)) for name in TARGETS],
        plan=run.plan("subsets"),
        retrained=[run.retrained("subsets", part) for part in PARTS["subsets"]],
        checkpoints=[made(run.checkpoint(name)) for name in CHECKPOINTS],
        shards=train_features,
        target_features=target_features(TARGETS),
        kernels=[made(run.kernel(name)) for name in CHECKPOINTS],
        calibration=made(run.calibration),
        also=brought_for_shards(),
    output:
        shown(run.lds, "lds", "Evaluation", result="LDS"),
        shown(run.lds_curves, "lds_curves", "Evaluation", result="LDS by settings"),
    log:
        log_of("evaluation/lds"),
    benchmark:
        time_of("evaluation/lds")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("measure-lds"),
        runtime=240,
        gpu=gpus("measure-lds"),
    params:
        **step("measure-lds"),
        output_code=MODEL_OUTPUT,
        rows=train_rows,
        target_rows=all_target_rows,
    message:
        "evaluation: linear datamodeling score into {output}"
    shell:
        "trak-steps measure-lds {params.settings} > {log} 2>&1"


rule measure_removal:
    input:
        train=prepared(run.train),
        targets=[prepared(run.targets(name)) for name in TARGETS],
        plan=run.plan("removal"),
        retrained=[run.retrained("removal", part) for part in PARTS["removal"]],
    output:
        shown(run.removal, "removal", "Evaluation", result="removal"),
        shown(run.removals, "removals", "Evaluation", result="each removal"),
    log:
        log_of("evaluation/removal"),
    benchmark:
        time_of("evaluation/removal")
    threads: 1
    resources:
        mem_mb=memory("measure-removal"),
        runtime=30,
        gpu=gpus("measure-removal"),
    params:
        **step("measure-removal"),
        output_code=MODEL_OUTPUT,
        rows=train_rows,
        target_rows=all_target_rows,
    message:
        "evaluation: what leaving rows out did, into {output}"
    shell:
        "trak-steps measure-removal {params.settings} > {log} 2>&1"


# Of so many rows that one job would look for wrong labels for hours, several look at a part each.


rule sum_classes:
    input:
        train=prepared(run.train),
        shards=features_of_rows,
        also=brought_for_shards(),
    output:
        whole(run.class_sums("{rows}")),
    log:
        log_of("evaluation/classes/{rows}"),
    benchmark:
        time_of("evaluation/classes/{rows}")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("sum-classes"),
        runtime=120,
        gpu=gpus("sum-classes"),
    params:
        **step("sum-classes"),
        output_code=MODEL_OUTPUT,
    message:
        "evaluation: sums of classes, rows {wildcards.rows}"
    shell:
        "trak-steps sum-classes --rows {wildcards.rows} {params.settings} > {log} 2>&1"


rule find_support:
    input:
        train=prepared(run.train),
        shards=features_of_rows,
        kernels=[made(run.kernel(name)) for name in of_job("{training}")],
        sums=class_sums,
        also=brought_for_shards(),
    output:
        whole(run.support("{training}", "{rows}")),
    log:
        log_of("evaluation/support/{training}/{rows}"),
    benchmark:
        time_of("evaluation/support/{training}/{rows}")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("find-support"),
        runtime=120,
        gpu=gpus("find-support"),
    params:
        **step("find-support"),
        output_code=MODEL_OUTPUT,
    message:
        "evaluation: support by training {wildcards.training}, rows {wildcards.rows}"
    shell:
        "trak-steps find-support --training {wildcards.training} --rows {wildcards.rows} "
        "{params.settings} > {log} 2>&1"


rule pick_suspects:
    input:
        train=prepared(run.train),
        shards=train_features,
        support=supports,
        also=brought_for_shards(),
    output:
        whole(run.picked),
    log:
        log_of("evaluation/picked"),
    benchmark:
        time_of("evaluation/picked")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("pick-suspects"),
        runtime=120,
        gpu=gpus("pick-suspects"),
    params:
        **step("pick-suspects"),
        output_code=MODEL_OUTPUT,
    message:
        "evaluation: the most suspicious rows"
    shell:
        "trak-steps pick-suspects {params.settings} > {log} 2>&1"


rule find_opponents:
    input:
        train=prepared(run.train),
        shards=features_of_rows,
        kernels=[made(run.kernel(name)) for name in CHECKPOINTS],
        calibration=made(run.calibration),
        picked=made(run.picked),
        also=brought_for_shards(),
    output:
        whole(run.opponents("{rows}")),
    log:
        log_of("evaluation/opponents/{rows}"),
    benchmark:
        time_of("evaluation/opponents/{rows}")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("find-opponents"),
        runtime=120,
        gpu=gpus("find-opponents"),
    params:
        **step("find-opponents"),
        output_code=MODEL_OUTPUT,
    message:
        "evaluation: what argues against suspects, rows {wildcards.rows}"
    shell:
        "trak-steps find-opponents --rows {wildcards.rows} {params.settings} > {log} 2>&1"


rule find_mislabelled:
    input:
        unpack(suspected_by),
        train=prepared(run.train),
    output:
        shown(run.suspects, "suspects", "Evaluation", result="suspects"),
        shown(run.mislabelled, "mislabelled", "Evaluation", result="wrong labels"),
    log:
        log_of("evaluation/mislabelled"),
    benchmark:
        time_of("evaluation/mislabelled")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("find-mislabelled"),
        runtime=240,
        gpu=gpus("find-mislabelled"),
    params:
        **step("find-mislabelled"),
        output_code=MODEL_OUTPUT,
        rows=train_rows,
        tables=train_table,
    message:
        "evaluation: rows with suspicious labels into {output}"
    shell:
        "trak-steps find-mislabelled {params.settings} > {log} 2>&1"


rule measure_stability:
    input:
        train=prepared(run.train),
        targets=[prepared(run.targets(name)) for name in TARGETS],
        shards=train_features,
        target_features=target_features(TARGETS),
        kernels=[made(run.kernel(name)) for name in CHECKPOINTS],
        calibration=made(run.calibration),
        also=brought_for_shards(),
    output:
        shown(run.stability, "stability", "Evaluation", result="stability"),
    log:
        log_of("evaluation/stability"),
    benchmark:
        time_of("evaluation/stability")
    threads: settings.execution.threads
    resources:
        mem_mb=memory("measure-stability"),
        runtime=120,
        gpu=gpus("measure-stability"),
    params:
        **step("measure-stability"),
        output_code=MODEL_OUTPUT,
        rows=train_rows,
        target_rows=all_target_rows,
    message:
        "evaluation: do signs and ranks hold, into {output}"
    shell:
        "trak-steps measure-stability {params.settings} > {log} 2>&1"


rule evaluation:
    input:
        EVALUATION,
        run.report,
    message:
        "evaluation: done, see {run.evaluation}"
