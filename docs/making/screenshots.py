"""Screenshots of a report for docs/runs.md: `python docs/making/screenshots.py runs/nine/report.html`; needs Chromium.

The page there is that of `mixalign train -m mixer=proportional,uniform,ama_s seed=0,1,2 run_dir=runs/nine`.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURES = Path(__file__).resolve().parents[1] / "pictures"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=20000")
DARK = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")
SHOTS = {  # name -> window, width of the picture, further flags
    "report_light": ((1100, 1340), 820, ()),
    "report_dark": ((1100, 1340), 820, DARK),
    "report_phone": ((420, 1340), 420, ()),
}
QUALITY = 60


def main(page: Path, folder: Path = PICTURES) -> None:
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(NAMES)} is installed")
    for name, (size, width, more) in SHOTS.items():
        with tempfile.TemporaryDirectory() as work:
            shot = Path(work) / "shot.png"
            window = f"--window-size={size[0]},{size[1]}"
            flags = [*FLAGS, *more, window, f"--user-data-dir={work}/profile", f"--screenshot={shot}"]
            subprocess.run([browser, *flags, page.resolve().as_uri()], check=True, capture_output=True, timeout=120)
            with Image.open(shot) as opened:
                image = opened.convert("RGB")
        image.resize((width, round(image.height * width / image.width))).save(
            folder / f"{name}.webp", quality=QUALITY, method=6
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
