"""Pictures of the explorer for the docs: ``python -m tests.serving.screenshots BUNDLES FOLDER``."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from tesserec.index.bundle import Bundle
from tests.serving.live import browsing, serving

LAPTOP = {"width": 1280, "height": 800}
PHONE = {"width": 375, "height": 812}
NAMES = ("map", "user", "exploration", "codebook", "map-dark", "map-phone", "user-phone")


def main(bundles: str, folder: str) -> None:
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    bundle = Bundle.open(Path(bundles))
    with serving(lambda: bundle) as address, browsing() as browser:
        for name in NAMES:
            phone, dark = name.endswith("-phone"), name.endswith("-dark")
            page = browser.new_page(
                viewport=PHONE if phone else LAPTOP,
                color_scheme="dark" if dark else "light",
                device_scale_factor=1.5 if phone else 1,
                reduced_motion="reduce",
            )
            _shoot(page, address, name.removesuffix("-phone").removesuffix("-dark"), out / f"explorer-{name}.png")
            page.close()


def _shoot(page, address: str, view: str, path: Path) -> None:
    phone = path.stem.endswith("-phone")
    if view == "map":
        page.goto(f"{address}#/map")
        page.wait_for_selector(".map .cell")
        if not phone:
            busy = page.locator(".map .cell.step-4").nth(2).get_attribute("data-interest")
            page.evaluate(f"location.hash = '#/map/{busy}'")
            page.wait_for_selector("#panel .items")
    elif view == "codebook":
        page.goto(f"{address}#/codebook")
        page.wait_for_selector(".tiles")
    else:
        page.goto(f"{address}#/user")
        page.wait_for_selector(".small .map .cell")
        if view == "exploration":
            page.locator("#explore").fill("30")
            page.wait_for_selector(".tag.new")
        below = {"exploration": ".sliders", "user": ".history"}[view]
        if phone or view == "exploration":
            page.evaluate(f"scrollTo(0, document.querySelector('{below}').offsetTop - 16)")
    page.wait_for_timeout(200)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(128).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
