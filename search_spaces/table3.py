"""What makes a model fragile: the edge of untreated training as one thing at a time is changed.

The paper's Table 3 (another size, without DCN, fewer features, one task less, two tasks less), with an edge and its
interval in place of bad copies out of three; and beyond it: a mixture of experts, no LayerNorm, batch, warm-up, window,
Adagrad's first accumulator, drift, one task alone, as a retrieval model has, and a start from yesterday's weights, as
rankers are trained every day: from those of four runs, since one run is no sample, with fresh accumulators of Adagrad's
and with those that the run left. Untreated, as in the paper; --set methods=... takes others. Each member is a study of
its own, with its own control.
"""

from study import Arm, EdgeSearch, Family, Member, Recipe, Study, WeightsOf

FEWER_IDS = "user_id,video_id,author_id,music_id,tag,video_type,upload_type,tab,hour"
"""The video, its author and where it was shown; of the user nothing but who it is."""


AS_IS = Recipe()


def member(
    label: str,
    words: str,
    *,
    model: str = "small_dcn",
    data: str = "kuairand",
    recipe: Recipe = AS_IS,
    against: str = "",
    init_from: WeightsOf | None = None,
    **options: str | float,
) -> Member:
    """options: of the data source."""
    study = Study(
        name=f"table3_{label}",
        data=data,
        data_options=options,
        models=(model,),
        arms=(Arm(method="none"),),
        lrs=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
        seeds=(0,),
        recipe=recipe,
        search=EdgeSearch(),
    )
    return Member(label=label, words=words, study=study, against=against, init_from=init_from)


study = Family(
    name="table3",
    members=(
        member("as_is", "as is: 64x2 with DCN-v2"),
        member("larger", "larger: 256x4", model="large_dcn"),
        member("no_dcn", "without DCN-v2", model="small"),
        member("fewer_features", "fewer features: 9 of 30 ids", only_ids=FEWER_IDS),
        member("one_task_less", "one task less: no play time", only_tasks="click,long_view,like"),
        member("two_tasks_less", "two tasks less: click and long view", only_tasks="click,long_view"),
        member("one_task", "one task: click", only_tasks="click"),
        member("mmoe", "4 experts (MMoE), without DCN-v2", model="small_mmoe", against="no_dcn"),
        member("no_norm", "no LayerNorm behind the cross layer", model="small_dcn_unnormed"),
        member("batch_256", "batch 256", recipe=Recipe(batch=256)),
        member("batch_1024", "batch 1,024", recipe=Recipe(batch=1024)),
        member("no_warmup", "no warm-up", recipe=Recipe(warmup=0)),
        member("warmup_100", "warm-up over 100 steps", recipe=Recipe(warmup=100)),
        member("in_order", "in order of time (windows of one batch)", recipe=Recipe(window=512)),
        member("shuffled", "shuffled over all days", recipe=Recipe(window=10**7)),
        member("accumulator_small", "first accumulator 0.01", recipe=Recipe(initial_accumulator=0.01)),
        member("accumulator_large", "first accumulator 1", recipe=Recipe(initial_accumulator=1.0)),
        member("yesterday", "days 1 to 7 alone", only_days="1-7"),
        member("today", "days 8 to 14 alone, from random weights", only_days="8-14", against="yesterday"),
        member(
            "warm_start",
            "days 8 to 14, from the weights that days 1 to 6 left at lr 0.1",  # of days 1 to 7, the last is held out
            only_days="8-14",
            against="today",
            # A search takes each seed once: yesterday's run at 0.1 is the second of its ladder, that of seed 1.
            init_from=WeightsOf(member="yesterday", lr=0.1),
        ),
        *(
            member(
                f"warm_start_{number}",
                f"days 8 to 14, from the weights that another run left (seed {seed})",
                only_days="8-14",
                against="today",
                init_from=WeightsOf(member="yesterday", lr=0.1, seed=seed),
            )
            for number, seed in ((2, 0), (3, 2), (4, 3))
        ),
        member(
            "warm_start_accumulators",
            "days 8 to 14, from the weights and accumulators that days 1 to 6 left",
            only_days="8-14",
            against="today",
            init_from=WeightsOf(member="yesterday", lr=0.1, accumulators=True),
        ),
        *(
            member(
                f"warm_start_accumulators_{number}",
                f"days 8 to 14, from both as another run left them (seed {seed})",
                only_days="8-14",
                against="today",
                init_from=WeightsOf(member="yesterday", lr=0.1, seed=seed, accumulators=True),
            )
            for number, seed in ((2, 0), (3, 2), (4, 3))
        ),
        member("synthetic", "the synthetic stream", data="synthetic"),
        member("synthetic_still", "the synthetic stream, no drift", data="synthetic", against="synthetic", drift=0.0),
    ),
)
