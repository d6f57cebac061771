"""Pictures of a study in the MLflow UI, taken by a headless Chromium.

    python tests/helpers/screenshots.py DIR OUT

mirrors and serves the study in DIR on loopback, and writes OUT/mlflow_charts.png (the curves of all methods, as the
page opens) and OUT/mlflow_cells.png (the table of cells, the highest divergence rate first).
"""

import argparse
import asyncio
import base64
import json
import urllib.parse
from pathlib import Path
from typing import Any

import chromium
from mlflow_view import study_ui

from study.record.definition import read_definition
from study.tracking.mirror import mirror

SIZE = (1366, 768)
SORTED_CELLS = {
    "workflowType": "machine_learning",
    "searchFilter": 'tags.`study.kind` = "cell"',
    "orderByKey": "metrics.`divergence/rate`",
    "orderByAsc": "false",
    "compareRunsMode": "TABLE",
}


def take(folder: Path, out: Path) -> list[dict[str, Any]]:
    """Take both pictures, and return the charts that are drawn as the page opens, the first one first.

    Of a chart: its title, the names of its lines, and where it stands (left, top, right, bottom).

    Raises:
        RuntimeError: a page does not show what it should within half a minute.
    """
    out.mkdir(parents=True, exist_ok=True)
    shown = mirror(folder)
    runs = f"#/experiments/{shown.experiment_id}/runs?"
    columns = [f"metrics.`{name}`" for name in (*COLUMNS, _first_score(folder))] + [
        f"params.`{name}`" for name in PARAMS
    ]
    settings = SETTINGS % (shown.experiment_id, json.dumps(columns))
    with study_ui(folder) as address:
        cells = address.partition("#")[0] + runs + urllib.parse.urlencode(SORTED_CELLS)
        pages = {"mlflow_charts.png": (address, CHARTS_ARE_DRAWN), "mlflow_cells.png": (cells, CELLS_ARE_LISTED)}
        charts, _ = asyncio.run(_take(pages, settings, out))
    return charts


CHARTS_ARE_DRAWN = """
    [...document.querySelectorAll('.js-plotly-plot')].filter(p => p.querySelectorAll('.scatterlayer .trace').length > 1)
    .length >= 2
"""
CHARTS = """
    [...document.querySelectorAll('.js-plotly-plot')].map(plot => {
        const at = plot.getBoundingClientRect();
        return {
            title: plot.closest('[data-testid]').innerText.split('\\n')[0],
            lines: [...new Set(plot.data.map(line => line.name))],
            box: [at.left, at.top, at.right, at.bottom],
        };
    })
"""
CELLS_ARE_LISTED = "document.querySelectorAll('.ag-center-cols-container .ag-row').length >= 5"


COLUMNS = ("divergence/rate", "divergence/rate_low", "divergence/rate_high", "divergence/runs", "quality/kept")
PARAMS = ("model", "method", "lr")


def _first_score(folder: Path) -> str:
    task = read_definition(folder).data["tasks"][0]
    return f"quality/{'auc' if task['kind'] == 'binary' else 'rmse'}_{task['name']}"


SETTINGS = """
    const page = 'MLflowLocalStorage-1.1-ExperimentPage-["%s"]-ReactComponentState';
    localStorage.setItem(page, JSON.stringify({selectedColumns: %s}));
"""
"""What the browser remembers of someone who has ticked these under *Columns*."""

HIDE_TOOLBARS = """
    document.head.appendChild(document.createElement('style')).textContent = '.modebar { display: none !important; }'
"""
"""As on a screen whose mouse is elsewhere: without a mouse, the charts' toolbars are always there."""


async def _take(pages: dict[str, tuple[str, str]], settings: str, out: Path) -> list[list[dict[str, Any]]]:
    charts = []
    for name, (url, ready) in pages.items():
        async with chromium.opened(url, SIZE, settings=settings) as page:
            await page.until(ready)
            await page.evaluate(HIDE_TOOLBARS)
            await page.until(ready)
            await asyncio.sleep(1.5)  # lines are animated into place
            picture = await page.send("Page.captureScreenshot", format="png")
            (out / name).write_bytes(base64.b64decode(picture["data"]))
            charts.append(await page.evaluate(CHARTS))
    return charts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pictures of a study in the MLflow UI.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("out", type=Path, metavar="OUT")
    options = parser.parse_args()
    take(options.folder, options.out)
