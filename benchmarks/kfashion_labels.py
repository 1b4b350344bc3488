"""Label files read per second on one core, and the memory of reading 10,000 and 100,000 of them.

Invented files of the real form, with one small image that all share by hard link. Bars: 3,000 files per CPU second, and
the peak memory grows by no more than the table of garments, which is read at the end. Run with
`python benchmarks/kfashion_labels.py [FILES …]`.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SIZES = (10_000, 100_000)
FOLDERS = ("레트로", "로맨틱", "리조트", "스트리트")


def write_files(root: Path, count: int) -> None:
    import numpy as np

    from kfashion.synthetic import draw_catalogue

    draw_catalogue(root / "drawn", 40, 20, 0)
    texts = [path.read_text(encoding="utf-8") for path in sorted((root / "drawn").rglob("*.json"))]
    picture = next((root / "drawn").rglob("*.jpg"))
    order = np.random.default_rng(0).integers(0, len(texts), count)
    for number, text in enumerate(order):
        folder = root / "labels" / FOLDERS[number % len(FOLDERS)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.json").write_text(texts[text], encoding="utf-8")
        if number % 10_000 < 4:  # a file system allows some 65,000 links to a file
            (folder / f"{number}.jpg").write_bytes(picture.read_bytes())
            first = folder / f"{number}.jpg"
        else:
            os.link(first, folder / f"{number}.jpg")


def measure(root: Path) -> None:
    """Read the folder in this process and print what it took."""
    from kfashion.catalogue import Reading, read_catalogue

    begin = time.process_time()
    catalogue = read_catalogue(root / "labels", root / "cache", Reading())
    seconds, peak = time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"garments": len(catalogue), "seconds": seconds, "mb": peak / 1024}))


def main() -> None:
    sizes = [int(word) for word in sys.argv[1:]] or SIZES
    print(f"{'files':>9} {'garments':>9} {'files per CPU s':>16} {'peak memory':>12}")
    for count in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), count)
            command = [sys.executable, __file__, "--measure", folder]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rate = count / found["seconds"]
        print(f"{count:>9,} {found['garments']:>9,} {rate:>16,.0f} {found['mb']:>9,.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]))
    else:
        main()
