"""How every run of a study is trained."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from study.config.checks import MAX_COUNT, check_lr, check_number, need, whole
from study.config.identity import as_one_number, without_defaults
from study.config.shown import code_html

SCHEDULES = ("constant", "linear", "cosine", "step")
OF_SCHEDULES = {"final_factor": ("linear", "cosine"), "decay_steps": ("step",), "decay_factor": ("step",)}
"""Field of a recipe -> the schedules that use it."""

COUNTS = ("batch", "steps", "warmup", "decay_steps", "window", "embedding_dim")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How every run of a study is trained. A study has one recipe.

    Args:
        batch: rows a step, a multiple of 32. (Vectorized CPU kernels use other instructions for the last few elements
            of a tensor. Runs that end at a vector's boundary have the same bits in every stack.)
        steps: optimizer steps; None is one pass over the training rows.
        warmup: steps of linear warm-up, to the run's lr.
        schedule: of the lr after the warm-up, one of `SCHEDULES`. The lr of a run is its peak
            (`study.training.lr_schedule`).
        final_factor: of "linear" and "cosine": the share of the peak that the lr falls to.
        decay_steps, decay_factor: of "step": the lr is multiplied by the factor after each so many steps; None is a
            third of the steps after the warm-up.
        window: rows of the time-ordered log inside which a batch order is shuffled.
        embedding_dim, embedding_std: width and standard deviation of the embedding rows.
        initial_accumulator, eps: Adagrad's `G0` and `eps` (inside the root), for network and embeddings.
        embeddings: "adagrad" (plain Adagrad, as in the paper) or "method" (the run's method acts on them too).
        embeddings_lr: peak lr of the embeddings in every run; None is that of the run. Warm-up and schedule act on it.
        precision: "float32" or "float64".
        init_from: content hash of the weights that every run starts from (`study.training.weights`); empty draws them
            by seed.
        init_accumulators: content hash of the Adagrad accumulators that are restored with them; empty starts fresh.
    """

    batch: int = 512
    steps: int | None = None
    warmup: int = 20
    schedule: str = "constant"
    final_factor: float = 0.0
    decay_steps: int | None = None
    decay_factor: float = 0.1
    window: int = 20_000
    embedding_dim: int = 4
    embedding_std: float = 0.05
    initial_accumulator: float = 0.1
    eps: float = 1e-7
    embeddings: str = "adagrad"
    embeddings_lr: float | None = None
    precision: str = "float32"
    init_from: str = ""
    init_accumulators: str = ""

    _repr_html_ = code_html

    def __post_init__(self) -> None:
        for name in ("final_factor", "decay_factor"):
            check_number(getattr(self, name), name)
        for name in COUNTS:
            if (value := getattr(self, name)) is not None or getattr(Recipe, name) is not None:
                object.__setattr__(self, name, whole(value, name))
        need(
            self.batch >= 32 and self.batch % 32 == 0, f"need a batch that is a multiple of 32, got batch={self.batch}"
        )
        need(self.batch <= MAX_COUNT, f"need batch <= {MAX_COUNT:,}, got batch={self.batch}")
        least = {"steps": 1, "warmup": 0, "decay_steps": 1, "window": 1, "embedding_dim": 1}
        for name, low in (least | {"embedding_std": 0, "initial_accumulator": 0, "eps": 0}).items():
            value = getattr(self, name)
            if name not in least or value is not None:
                check_number(value, name)
                need(low <= value < math.inf, f"need {name} >= {low}, got {name}={value}")
                need(name not in least or value <= MAX_COUNT, f"need {name} <= {MAX_COUNT:,}, got {name}={value}")
        words = {"schedule": SCHEDULES, "embeddings": ("adagrad", "method"), "precision": ("float32", "float64")}
        for name, known in words.items():
            value = getattr(self, name)
            need(value in known, f"{name} is one of {', '.join(known)}; got {value!r}")
        need(0 <= self.final_factor < 1, f"need 0 <= final_factor < 1, got final_factor={self.final_factor:g}")
        need(0 < self.decay_factor < 1, f"need 0 < decay_factor < 1, got decay_factor={self.decay_factor:g}")
        for name, schedules in OF_SCHEDULES.items():
            used = self.schedule in schedules or getattr(self, name) == getattr(Recipe, name)
            need(used, f"{name} needs schedule={' or '.join(schedules)}, got schedule={self.schedule}")
        if self.embeddings_lr is not None:
            check_lr(self.embeddings_lr, "embeddings_lr")
            need(
                self.embeddings == "adagrad",
                f"embeddings_lr needs embeddings=adagrad, got embeddings={self.embeddings}",
            )
        for name, what in (("init_from", "weights"), ("init_accumulators", "accumulators")):
            value = getattr(self, name)
            is_hash = isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
            need(value == "" or is_hash, f"{name} is the SHA-256 of {what}, got {value!r}")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Its part of a run's id; the runs of a study share it."""
        return as_one_number(without_defaults(self))


def steps_of(recipe: Recipe, train_rows: int) -> int:
    """Return the optimizer steps of a run: those of the recipe, or one pass over the training rows.

    Raises:
        ValueError: If the rows do not fill one batch.
    """
    if train_rows < recipe.batch:
        raise ValueError(f"{train_rows} training rows do not fill one batch of {recipe.batch}")
    return recipe.steps or train_rows // recipe.batch
