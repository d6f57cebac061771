"""Pictures of a study in the MLflow UI, taken by a headless Chromium that is driven over its DevTools protocol.

    python tests/screenshots.py DIR OUT

mirrors and serves the study in DIR on loopback, and writes OUT/mlflow_charts.png (the curves of all methods, as the
page opens) and OUT/mlflow_cells.png (the table of cells, the highest divergence rate first).
"""

import argparse
import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
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


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def take(folder: Path, out: Path) -> list[Path]:
    """Both pictures. Raises RuntimeError where a page does not show what it should within half a minute."""
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
        asyncio.run(_take(pages, settings, out))
    return [out / name for name in pages]


CHARTS_ARE_DRAWN = """
    [...document.querySelectorAll('.js-plotly-plot')].filter(p => p.querySelectorAll('.scatterlayer .trace').length > 1)
    .length >= 2
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

ASSISTANT_IS_CLOSED = """
    (() => {
        const close = document.querySelector('[data-component-id="mlflow.assistant.chat_panel.close"]');
        if (close !== null) close.click();
        return close === null;
    })()
"""


HIDE_TOOLBARS = """
    document.head.appendChild(document.createElement('style')).textContent = '.modebar { display: none !important; }'
"""
"""As on a screen whose mouse is elsewhere: without a mouse, the charts' toolbars are always there."""


async def _take(pages: dict[str, tuple[str, str]], settings: str, out: Path) -> None:
    for name, (url, ready) in pages.items():
        async with _page() as page:
            await page.send("Page.enable")
            await page.send("Page.addScriptToEvaluateOnNewDocument", source=settings)
            await page.send("Page.navigate", url=url)
            await page.until(ready)
            await page.until(ASSISTANT_IS_CLOSED)
            await page.evaluate(HIDE_TOOLBARS)
            await page.until(ready)
            await asyncio.sleep(1.5)  # lines are animated into place
            picture = await page.send("Page.captureScreenshot", format="png")
            (out / name).write_bytes(base64.b64decode(picture["data"]))


class _Page:
    """One tab. Commands get their answers in order, events are passed over."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        await self.socket.send_json({"id": number, "method": method, "params": params})
        while True:
            answer = await self.socket.receive_json(timeout=30)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    async def evaluate(self, expression: str) -> Any:
        answer = await self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    async def until(self, expression: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not await self.evaluate(expression):
            if time.monotonic() > end:
                text = await self.evaluate("document.body.innerText.slice(0, 500)")
                raise RuntimeError(f"the page does not show what it should; it says: {text}")
            await asyncio.sleep(0.3)


@contextlib.asynccontextmanager
async def _page() -> AsyncIterator[_Page]:
    """A browser with an empty profile of its own, for one page."""
    binary = chromium()
    if binary is None:
        raise RuntimeError("no Chromium is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        off = ("background-networking", "component-update", "sync", "gpu", "dev-shm-usage")
        command = [binary, "--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{what}" for what in off)]
        command += [f"--user-data-dir={profile}", f"--window-size={SIZE[0]},{SIZE[1]}", "--remote-debugging-port=0"]
        browser = subprocess.Popen([*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = await _port(Path(profile) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as http:
                async with http.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    tabs = json.loads(await answer.text())
                url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
                async with http.ws_connect(url, max_msg_size=0) as socket:
                    page = _Page(socket)
                    size = {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False}
                    await page.send("Emulation.setDeviceMetricsOverride", **size)
                    yield page
        finally:
            browser.terminate()
            try:
                browser.wait(timeout=10)
            except subprocess.TimeoutExpired:
                browser.kill()
                browser.wait()


async def _port(file: Path) -> int:
    for _ in range(150):
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(file.read_text().splitlines()[0])
        await asyncio.sleep(0.1)
    raise RuntimeError("Chromium does not start")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pictures of a study in the MLflow UI.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("out", type=Path, metavar="OUT")
    options = parser.parse_args()
    for picture in take(options.folder, options.out):
        print(picture)
