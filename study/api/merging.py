"""Merges the records of a study from Python."""

from study.api.result import AnyPath, Result, check_requested, path_text
from study.commands.paths import new_folder, study_folder


def merge(*folders: "Result | AnyPath", out: AnyPath, accept_changed_code: bool = False) -> Result:
    """Record the runs of one study that was trained in several folders in another folder, and return that record.

    The folders stay as they are. The studies may differ in their axes alone: models, methods, lrs and seeds. A run that
    several folders have counts once, as the first one recorded it.

    Args:
        folders: Results, or the folders of records.
        out: A new folder, or one that such runs were merged into before.
        accept_changed_code: Merge runs that different code of your own modules trained.

    Raises:
        ValueError: The studies differ in their data, recipe, rule or trainer. Nothing is written.
    """
    from study.commands.merge import merge as merge_records

    check_requested(accept_changed_code=accept_changed_code)
    places = [one.folder if isinstance(one, Result) else study_folder(path_text(one, "folder")) for one in folders]
    target = new_folder(path_text(out, "out"))
    merge_records(places, target, accept_changed_code=accept_changed_code)
    return Result(target)
