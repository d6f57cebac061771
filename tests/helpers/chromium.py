"""A headless Chromium that is driven over its DevTools protocol."""

import asyncio
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest


def path() -> str | None:
    """Return Chromium's path, or None where it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


needs_chromium = pytest.mark.skipif(path() is None, reason="no Chromium is installed")


class Page:
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
async def opened(url: str, size: tuple[int, int], *, mobile: bool = False, settings: str = "") -> AsyncIterator[Page]:
    """A browser with an empty profile of its own, for one page.

    Args:
        url: Of the page.
        size: Width and height of the window. By emulation: a window itself has at least 500 pixels.
        mobile: Whether the page is laid out as on a phone.
        settings: A script that runs before those of the page.
    """
    binary = path()
    if binary is None:
        raise RuntimeError("no Chromium is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        off = ("background-networking", "component-update", "sync", "gpu", "dev-shm-usage")
        command = [binary, "--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{what}" for what in off)]
        command += [f"--user-data-dir={profile}", "--remote-debugging-port=0"]
        browser = subprocess.Popen([*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = await _port(Path(profile) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as http:
                async with http.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    tabs = json.loads(await answer.text())
                tab = next(tab for tab in tabs if tab["type"] == "page")
                async with http.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    page = Page(socket)
                    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": mobile}
                    await page.send("Emulation.setDeviceMetricsOverride", **metrics)
                    await page.send("Page.enable")
                    await page.send("Page.addScriptToEvaluateOnNewDocument", source=settings)
                    await page.send("Page.navigate", url=url)
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
