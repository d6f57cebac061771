"""The edge against the batch: 128 to 2,048 rows predict 8,192, which is trained too, as the check.

A study has one recipe, so each batch is a study of a family. All have the same number of steps, so a larger batch reads
more rows. `study scale results/scale_batch --at batch=8192` predicts, and leaves 8,192 out of the fit.
"""

from study import Arm, EdgeSearch, Family, Member, Recipe, Study

BATCHES = (128, 256, 512, 1024, 2048, 8192)
STEPS = 405
"""One pass over the slice of KuaiRand at a batch of 512."""


def member(batch: int) -> Member:
    study = Study(
        name=f"scale_batch_{batch}",
        data="kuairand",
        models=("small",),
        arms=(Arm("none"), Arm("layer_clip"), Arm("agc")),
        lrs=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2),
        seeds=(0,),
        recipe=Recipe(batch=batch, steps=STEPS),
        search=EdgeSearch(),
    )
    return Member(label=f"batch_{batch}", words=f"batch {batch:,}", study=study)


study = Family(name="scale_batch", members=tuple(member(batch) for batch in BATCHES))
