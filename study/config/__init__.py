"""The values that define a study: recipe, rule, arms, runs and searches. All are frozen and JSON-able.

`runs` says what the id of a run is. Importing this needs the standard library alone.
"""

from study.config.as_json import arm_to_json, run_from_json, study_from_json, to_json
from study.config.checks import MAX_LR, check_lr, check_number, check_share
from study.config.identity import RANKER, canonical_json
from study.config.plan import (
    CONTROL_LRS,
    comparators,
    control_of,
    further_control,
    has_grid,
    nominates_only,
    planned_contrasts,
    planned_ids,
    runs_of,
    untreated,
)
from study.config.recipe import Recipe, steps_of
from study.config.rule import Rule
from study.config.runs import CONTROL_SEEDS, RESULTS_VERSION, Arm, Run, united_arms
from study.config.searches import JUDGED_FROM, EdgeSearch, QualitySearch, Search
from study.config.study import IMPORTED, MAX_NAMED, Study, check_size, log_grid

__all__ = [
    "CONTROL_LRS",
    "CONTROL_SEEDS",
    "IMPORTED",
    "JUDGED_FROM",
    "MAX_LR",
    "MAX_NAMED",
    "RANKER",
    "RESULTS_VERSION",
    "Arm",
    "EdgeSearch",
    "QualitySearch",
    "Recipe",
    "Rule",
    "Run",
    "Search",
    "Study",
    "arm_to_json",
    "canonical_json",
    "check_lr",
    "check_number",
    "check_share",
    "check_size",
    "comparators",
    "control_of",
    "further_control",
    "has_grid",
    "log_grid",
    "nominates_only",
    "planned_contrasts",
    "planned_ids",
    "run_from_json",
    "runs_of",
    "steps_of",
    "study_from_json",
    "to_json",
    "united_arms",
    "untreated",
]
