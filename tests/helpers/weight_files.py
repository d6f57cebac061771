"""What the tests of several folders share: weight files."""

import dataclasses
import io
import json
import zipfile
from typing import Any

import numpy as np
from stacks import LOG, make_run

from study.data import Rows
from study.trainers import warm_start
from study.training import weights
from study.training.networks import network_of_seed, spec_of
from study.training.weights import Weights

ROWS = Rows(whole="w" * 64, first=1, last=7)


def of_random(model: str = "small") -> Weights:
    """Weights that no training made."""
    run = make_run(model=model)
    network = network_of_seed(model, spec_of(LOG, run.recipe), 0)
    arrays = {f"parameter/{name}": p.detach().numpy() for name, p in network.named_parameters()}
    tables = {f"table/{f}": np.zeros((codes, 4), np.float32) for f, codes in enumerate(LOG.vocabulary)}
    return weights.validate(warm_start.about_of(run, LOG, ROWS, steps=5), arrays | tables)


GOOD = of_random()

ABOUT = json.loads(json.dumps({"format": 2} | dataclasses.asdict(GOOD.about)))


def file_of(about: Any = ABOUT, arrays: dict[str, Any] = GOOD.arrays, *, compress: bool = False) -> bytes:
    """A zip that says and holds this, whatever it is; arrays may be bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as parts:
        parts.writestr("about.json", about if isinstance(about, str | bytes) else json.dumps(about))
        for name, array in arrays.items():
            content = io.BytesIO()
            if isinstance(array, np.ndarray):
                np.lib.format.write_array(content, array, allow_pickle=True)
            parts.writestr(f"{name}.npy", content.getvalue() or array)
    return file.getvalue()
