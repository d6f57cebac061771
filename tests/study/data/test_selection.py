"""A selection of a log's columns is a log."""

import numpy as np
import pytest

import study.data as data
from study.config import Recipe, Run
from study.training.trainer import train

OPTIONS = {"rows": 2000, "users": 200, "items": 100, "days": 4}


def load(tmp_path, **only):
    return data.load("synthetic", OPTIONS | only, tmp_path)


def test_selected_columns_keep_the_order_of_the_log(tmp_path):
    whole = load(tmp_path)
    tasks = [task.name for task in whole.tasks]
    part = load(tmp_path, only_ids=f"{whole.id_names[3]}, {whole.id_names[0]}", only_tasks=[tasks[2], tasks[0]])
    np.testing.assert_array_equal(part.ids, whole.ids[:, [0, 3]])
    np.testing.assert_array_equal(part.labels, whole.labels[:, [0, 2]])
    np.testing.assert_array_equal(part.numbers, whole.numbers)
    assert part.id_names == (whole.id_names[0], whole.id_names[3])
    assert part.vocabulary == (whole.vocabulary[0], whole.vocabulary[3])
    assert part.tasks == (whole.tasks[0], whole.tasks[2])
    assert part.train_rows == whole.train_rows
    assert isinstance(part.ids.base, np.memmap)


def test_a_selection_has_its_own_content_unless_it_is_everything(tmp_path):
    whole = load(tmp_path)
    parts = {
        load(tmp_path, **{option: value}).content
        for option, value in (
            ("only_ids", whole.id_names[0]),
            ("only_ids", whole.id_names[1]),
            ("only_numbers", whole.number_names[0]),
            ("only_numbers", ""),
            ("only_tasks", whole.tasks[0].name),
        )
    }
    assert len(parts) == 5
    assert whole.content not in parts
    assert load(tmp_path, only_ids=list(whole.id_names)).content == whole.content


@pytest.mark.parametrize(
    ("option", "names"), [("only_ids", "id_names"), ("only_numbers", "number_names"), ("only_tasks", "task_names")]
)
def test_a_number_selects_the_first_columns(tmp_path, option, names):
    def names_of(log):
        return [task.name for task in log.tasks] if names == "task_names" else list(getattr(log, names))

    whole = load(tmp_path)
    part = load(tmp_path, **{option: 2})
    assert names_of(part) == names_of(whole)[:2]
    assert part.content == load(tmp_path, **{option: ",".join(names_of(whole)[:2])}).content


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ({"only_ids": "colour"}, "only_ids names colour; the data have"),
        ({"only_tasks": ""}, "need at least one task"),
        ({"only_ids": "", "only_numbers": []}, "need at least one feature"),
        ({"only_ids": 300}, "only_ids keeps the first 300; the data have"),
        ({"only_tasks": 0}, "only_tasks keeps the first 0; the data have"),
        ({"only_ids": True}, "only_ids is a list of names or a number, got True"),
        ({"only_ids": 2.5}, "only_ids is a list of names or a number, got 2.5"),
        ({"only_rows": 3}, "no option only_rows; its options are rows.*only_tasks"),
    ],
)
def test_bad_selections_are_refused(tmp_path, only, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **only)


@pytest.mark.parametrize("only", [{"only_ids": ""}, {"only_numbers": ""}, {"only_tasks": "click"}])
def test_a_selection_can_be_trained_on(tmp_path, only):
    log = load(tmp_path, **only)
    recipe = Recipe(batch=64, steps=5)
    runs = [Run(data=log.content, model="small", method="none", lr=0.1, seed=seed, recipe=recipe) for seed in (0, 1)]
    trained = train(runs, log)
    assert trained.loss.shape == (2, 5, len(log.tasks))
    assert np.isfinite(trained.loss).all()
    assert len(trained.judged) == len(log.tasks)
