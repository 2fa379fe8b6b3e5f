"""Toyscapes as a folder: street scenes of all 19 classes in the Cityscapes layout."""

import json
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from cilkit.limits import usable_cores
from cilkit.toyscapes.scene import check_size, draw_scene
from cilkit.toyscapes.street import SPLIT, VERSION

MARK = "toyscapes.json"  # its presence says that a tree is finished


def write_toyscapes(
    root: Path, seed: int = 0, fraction: int = 8, size: tuple[int, int] = (128, 256)
) -> Path:
    """Draw the whole data set into `root`, laid out like Cityscapes, and return `root`.

    Each city gets its Cityscapes image count divided by `fraction`, at least one. A finished tree
    with the same settings is left as it is; anything else there is a ValueError.
    """
    check_size(size)
    if seed < 0:
        raise ValueError(f"seed is {seed}; wanted 0 or more, such as 0")
    if fraction < 1:
        raise ValueError(f"fraction is {fraction}; wanted 1 (as many scenes as Cityscapes) or more")
    root = Path(root)
    wanted = {"version": VERSION, "seed": seed, "fraction": fraction, "size": list(size)}
    if finished(root, wanted):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as folder:
        tree = Path(folder) / root.name
        draw_all(tree, seed, fraction, size)
        (tree / MARK).write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        try:
            if root.is_dir():
                root.rmdir()  # empty, or finished() had refused it
            tree.rename(root)
        except OSError:  # unless someone else has just finished the same tree
            if not finished(root, wanted):
                raise
    return root


def finished(root: Path, wanted: dict) -> bool:
    """True if `root` holds the wanted tree, False if it is free; a ValueError if neither."""
    move_on = f"move it away, or write to another folder than {root}"
    if (root / MARK).is_file():
        try:
            found = json.loads((root / MARK).read_text(encoding="utf-8"))
        except ValueError:
            found = f"an unreadable {MARK}"
        if found == wanted:
            return True
        raise ValueError(f"{root} holds Toyscapes with {found}, wanted {wanted}; {move_on}")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(
            f"{root} is there but is not a finished Toyscapes tree (no {MARK}); wanted a free "
            f"place for {wanted}; {move_on}"
        )
    return False


def draw_all(tree: Path, seed: int, fraction: int, size: tuple[int, int]) -> None:
    """Draw all scenes with one process per core that may be used."""
    jobs = [
        (tree, "val" if city in SPLIT.test_cities else "train", city, index, seed, size)
        for city, images in SPLIT.images
        for index in range(max(1, round(images / fraction)))
    ]
    try:
        pool = ProcessPoolExecutor(usable_cores())
    except (
        OSError
    ):  # processes need semaphores, which lie in /dev/shm: it is missing, or closed to us
        pool = ThreadPoolExecutor(1)
    with pool:
        done = pool.map(write_scene, jobs, chunksize=4)
        try:
            for _ in tqdm(done, total=len(jobs), desc="Toyscapes", unit="scene"):
                pass
        except BaseException:  # stopped by the user: do not draw the rest first
            pool.shutdown(cancel_futures=True)
            raise


def write_scene(job: tuple[Path, str, str, int, int, tuple[int, int]]) -> None:
    """Draw one scene and write its two files."""
    tree, part, city, index, seed, size = job
    image, labels = draw_scene(city, index, seed, size)
    name = f"{city}_000000_{index:06d}"
    for kind, ending, pixels in (
        ("leftImg8bit", "leftImg8bit", image),
        ("gtFine", "gtFine_labelIds", labels),
    ):
        folder = tree / kind / part / city
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{name}_{ending}.png", compress_level=3)
