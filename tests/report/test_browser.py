from __future__ import annotations

import html
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from graphopt.report import render

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")


def browse(page: Path, profile: Path, *options: str) -> str:
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return html.unescape(done.stdout.decode("utf-8")).replace("\u00a0", " ")


def colours(png: Path) -> tuple[int, int, set[bytes]]:
    """Width, height, and the distinct rows of a PNG's decompressed data."""
    data = png.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    position, packed = 8, b""
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        if data[position + 4 : position + 8] == b"IDAT":
            packed += data[position + 8 : position + 8 + length]
        position += 12 + length
    rows = zlib.decompress(packed)
    stride = len(rows) // height
    return width, height, {rows[start : start + stride] for start in range(0, len(rows), stride)}


def test_the_page_opens_in_a_browser_with_its_script_running(run: Path, tmp_path: Path) -> None:
    dom = browse(render(run), tmp_path / "profile", "--dump-dom")
    for number in (
        "1,884 nodes became 1,872",
        "0.70×",
        "0.68–0.72",
        "138.4 dB",
        "BatchNormalization 'guiltyx'",
    ):
        assert number in dom
    assert '<div class="tools" id="pass-tools">' in dom, "the script shows the tools"
    assert '<button type="button">Pass</button>' in dom, "the script makes the heads buttons"


def test_hostile_names_do_not_run_in_a_browser(hostile: Path, tmp_path: Path) -> None:
    dom = browse(render(hostile), tmp_path / "profile", "--dump-dom")
    assert "1,884 nodes became 1,872" in dom


@pytest.mark.parametrize("width", [500, 1400])
def test_the_screenshot_is_not_blank(run: Path, tmp_path: Path, width: int) -> None:
    picture = tmp_path / "page.png"
    browse(render(run), tmp_path / "profile", f"--screenshot={picture}", f"--window-size={width},1200")
    found, height, rows = colours(picture)
    assert (found, height) == (width, 1200)
    assert len(rows) > 100
