"""Toyscapes: street scenes of all 19 classes, drawn by the kit and written like Cityscapes."""

import json
import math
import os
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from cilkit import painting as paint
from cilkit.classes import load_split, unknown
from cilkit.painting import FINER, ID, Air, Canvas, Colour, View, between, jitter, mix, pick

VERSION = 1  # of the drawing: a tree drawn by another version is not the same data set
MARK = "toyscapes.json"  # its presence says that a tree is finished
SPLIT = load_split("cityscapes")
IMAGES = dict(SPLIT.images)

FAR = 110.0  # m; the street is drawn up to here
RARE = {  # share of the scenes with one, and a step that visits all phases (stratified by index)
    "truck": (0.22, math.sqrt(2)),
    "bus": (0.2, math.sqrt(3)),
    "tram": (0.19, math.sqrt(5)),
    "motorcycle": (0.23, math.sqrt(7)),
    "rider": (0.32, math.sqrt(11)),
}

PLASTERS = {  # families of house fronts
    "brick": ((150, 78, 62), (132, 66, 54), (168, 100, 76), (120, 72, 62), (178, 122, 92)),
    "pastel": ((222, 198, 150), (206, 170, 150), (188, 196, 170), (226, 214, 190), (176, 190, 200)),
    "stone": ((186, 176, 156), (166, 158, 146), (198, 186, 160), (150, 144, 134), (176, 160, 134)),
    "modern": ((150, 154, 158), (196, 196, 192), (110, 118, 124), (214, 212, 204), (134, 128, 122)),
    "white": ((228, 224, 214), (214, 206, 192), (236, 230, 212), (204, 204, 198), (222, 206, 180)),
}
LEAVES = (
    (84, 116, 50),
    (62, 100, 48),
    (98, 128, 52),
    (72, 104, 66),
    (150, 118, 44),
    (124, 124, 48),
)
TYPICAL = {  # the colour towards which `grade` pulls what is labelled so
    "road": (88, 88, 94), "sidewalk": (192, 172, 160), "vegetation": (58, 108, 44),
    "terrain": (156, 192, 80), "sky": (184, 212, 240), "building": (190, 142, 104),
    "wall": (126, 104, 136), "fence": (116, 70, 40), "pole": (70, 92, 116),
    "traffic light": (24, 22, 18), "traffic sign": (250, 210, 50), "person": (206, 96, 140),
    "rider": (244, 130, 30), "car": (70, 84, 170), "truck": (236, 236, 226),
    "bus": (216, 52, 44), "train": (40, 170, 160), "motorcycle": (60, 24, 70),
    "bicycle": (150, 24, 60),
}  # fmt: skip
GRADING = 0.6  # how far `grade` pulls; 0 leaves colours free, and thousands of steps to learn from
LIVERIES = ((206, 40, 40), (30, 84, 160), (240, 190, 30), (34, 128, 84), (232, 120, 30),
            (110, 60, 130), (20, 130, 160))  # fmt: skip


@dataclass(frozen=True)
class City:
    """What all scenes of a city have in common; the same whatever the seed."""

    houses: tuple[Colour, ...]
    kinds: tuple[str, ...]  # of houses
    roof: Colour
    pitch: float  # share of houses with a pitched roof
    floors: tuple[int, int]
    window: tuple[float, float, float]  # width, height, and from one to the next, m
    leaf: Colour
    crown: str
    asphalt: Colour
    cobbled: bool
    slab: Colour
    slab_size: float  # m
    wall: Colour
    rail: Colour  # of fences
    post: Colour  # of poles
    tram: Colour
    bus: Colour
    bonnet: Colour
    bonnet_height: float  # in picture heights
    weather: tuple[str, ...]  # as often as it comes
    light: Colour
    haze_range: float  # m
    lots: tuple[str, ...]  # as often as they come
    trees: float  # density, about 1, as are the next two
    people: float
    parked: float
    typical: tuple[Colour, ...]  # the colours of TYPICAL, as this city sees them


@cache
def city_style(city: str) -> City:
    """The look of a city, from its name alone."""
    if city not in IMAGES:
        raise ValueError(unknown("city", city, list(IMAGES)))
    rng = np.random.default_rng([zlib.crc32(city.encode()), VERSION])
    families = list(PLASTERS)
    first, second = rng.permutation(len(families))[:2]
    houses = [jitter(rng, c, 0.08) for c in PLASTERS[families[first]] * 2]
    houses += [jitter(rng, c, 0.08) for c in PLASTERS[families[second]][:3]]
    old = families[first] in ("pastel", "white", "stone", "brick")
    low = int(rng.integers(4, 6))
    grey = between(rng, 78, 122)
    warm = between(rng, -1, 1)
    usual = pick(rng, ("clear", "overcast", "low sun", "bright", "rain"))
    lots = ["house"] * 8 + ["garden"] * 5 + ["park", "wall", "gap", "parking", "yard"]
    lots += [pick(rng, ("house", "garden", "park")) for _ in range(3)]
    return City(
        houses=tuple(houses),
        kinds=("plain", "plain", "shop", "timber" if old and rng.random() < 0.4 else "plain")
        if old else ("plain", "glass", "shop", "glass"),
        roof=jitter(rng, pick(rng, ((150, 70, 52), (96, 76, 70), (84, 86, 92), (168, 92, 60)))),
        pitch=between(rng, 0.5, 1.0) if old else between(rng, 0, 0.4),
        floors=(low, low + int(rng.integers(1, 4))),
        window=(between(rng, 0.95, 1.5), between(rng, 1.4, 1.9), between(rng, 2.1, 3.2)),
        leaf=jitter(rng, pick(rng, LEAVES), 0.12),
        crown=pick(rng, ("round", "round", "tall", "cone")),
        asphalt=(grey + 5 * warm, grey, grey - 5 * warm),
        cobbled=bool(rng.random() < 0.25),
        slab=jitter(rng, pick(rng, ((164, 158, 152), (150, 128, 116), (142, 146, 150))), 0.1),
        slab_size=between(rng, 0.5, 1.1),
        wall=jitter(rng, pick(rng, ((142, 132, 116), (158, 156, 150), (136, 92, 76))), 0.1),
        rail=jitter(rng, pick(rng, ((52, 62, 56), (190, 190, 186), (120, 92, 66), (60, 60, 66)))),
        post=jitter(rng, pick(rng, ((108, 112, 114), (140, 144, 146), (62, 78, 70), (84, 84, 88)))),
        tram=pick(rng, LIVERIES),
        bus=pick(rng, LIVERIES),
        bonnet=jitter(rng, pick(rng, ((30, 32, 36), (70, 74, 80), (44, 50, 66), (96, 96, 98)))),
        bonnet_height=between(rng, 0.085, 0.125),
        weather=(usual, usual, usual, "clear", "overcast"),
        light=(1 + 0.05 * warm, 1.0, 1 - 0.06 * warm),
        haze_range=between(rng, 90, 220),
        lots=tuple(lots),
        trees=between(rng, 0.75, 1.3),
        people=between(rng, 0.8, 1.25),
        parked=between(rng, 0.8, 1.2),
        typical=tuple(jitter(rng, colour, 0.1) for colour in TYPICAL.values()),
    )  # fmt: skip


WEATHER = {  # light, sky overhead, sky at the horizon, how sunny, how cloudy
    "clear": ((1.02, 1.02, 1.0), (92, 142, 204), (206, 222, 234), 0.8, 0.35),
    "bright": ((1.1, 1.09, 1.05), (96, 152, 220), (220, 234, 244), 1.0, 0.3),
    "low sun": ((1.12, 0.98, 0.8), (120, 150, 196), (250, 214, 164), 0.9, 0.4),
    "overcast": ((0.9, 0.92, 0.95), (176, 184, 194), (216, 220, 222), 0.15, 0.95),
    "rain": ((0.74, 0.79, 0.85), (128, 138, 150), (178, 184, 190), 0.05, 1.0),
}


def weather_air(rng: np.random.Generator, city: City) -> Air:
    """Light, sky and haze of one scene."""
    kind, side = pick(rng, city.weather), pick(rng, (-1, 1))
    k = between(rng, 0.94, 1.06)
    warm, over, low, sunny, cloud = WEATHER[kind]
    light = tuple(a * b * k for a, b in zip(warm, city.light, strict=True))
    thick = {"rain": 0.6, "low sun": 0.75}.get(kind, 1.0) * between(rng, 0.8, 1.2)
    return Air(
        light=light,
        sunny=sunny,
        sun_side=side,
        haze=mix(low, over, 0.2),
        haze_range=city.haze_range * thick,
        sky=(over, low),
        cloud=cloud * between(rng, 0.7, 1.1),
        cloud_colour=mix(low, (255, 255, 255), 0.5 * sunny),
        rain=1.0 if kind == "rain" else 0.0,
    )


# ---------------------------------------------------------------- the plan of a street


@dataclass(frozen=True)
class Lot:
    """A piece of land beside the street, from z0 to z1 (m)."""

    kind: str  # "house", "garden", "park", "wall", "gap" (a side street), "parking", "yard"
    z0: float
    z1: float
    edge: str  # what stands between it and the sidewalk: "fence", "wall", "hedge" or ""


@dataclass(frozen=True)
class Side:
    """One side of the street; all widths in metres, counted from the kerb outwards."""

    sign: int  # -1 left, 1 right
    kerb: float  # s of the kerb, without the sign
    verge: float  # grass between kerb and sidewalk, or 0
    walk: float  # outer edge of the sidewalk
    parked: bool
    rail: bool  # a railing between sidewalk and road
    lots: tuple[Lot, ...]

    def s(self, beyond: float) -> float:
        """s of a place some metres beyond the kerb."""
        return self.sign * (self.kerb + beyond)

    def lot(self, z: float) -> Lot:
        """The lot at z."""
        return next((lot for lot in self.lots if z < lot.z1), self.lots[-1])


@dataclass(frozen=True)
class Street:
    """A whole street: our lane is around s = 0, oncoming traffic around s = -3.4."""

    left: Side
    right: Side
    lines: tuple[float, ...]  # s of the dashed lines
    rails: float | None  # s of the middle of the tram track
    zebras: tuple[float, ...]  # z of crosswalks
    lit: int  # what all signals show: 0 red, 1 amber, 2 green


@dataclass(frozen=True)
class Thing:
    """Something to draw at z, and the ground it shades: s, half its width, its length (m)."""

    z: float
    draw: Callable[[Canvas, np.random.Generator], None]
    shade: tuple[float, float, float] | None = None


EDGES = {  # what may stand between sidewalk and lot, as often as it comes
    "garden": ("fence", "fence", "wall", "wall", "hedge", ""),
    "park": ("fence", "", "", "wall"),
    "parking": ("fence", "", "wall"),
    "yard": ("", "fence", "wall"),
    "wall": ("wall",),
}


def plan_side(rng: np.random.Generator, city: City, sign: int, kerb: float) -> Side:
    """Lots of 9 to 22 m along one side."""
    lots, z = [], 2.0
    while z < FAR:
        kind = pick(rng, city.lots)
        if kind == "gap" and (z < 10 or lots[-1].kind == "gap"):
            kind = "house"
        length = between(rng, 8, 11) if kind == "gap" else between(rng, 9, 20)
        lots.append(Lot(kind, z, z + length, pick(rng, EDGES.get(kind, ("",)))))
        z += length
    verge = between(rng, 0.9, 1.9) if rng.random() < 0.45 else 0.0
    walk, parked = verge + between(rng, 4.0, 6.2), rng.random() < 0.36
    return Side(sign, kerb, verge, walk, parked, verge == 0 and rng.random() < 0.4, tuple(lots))


def plan_street(rng: np.random.Generator, city: City, tram: bool) -> Street:
    """Lanes, kerbs, lots, markings."""
    more_right, more_left = rng.random() < 0.15, rng.random() < 0.12
    right = plan_side(rng, city, 1, 1.85 + 3.2 * more_right)
    left = plan_side(rng, city, -1, 5.1 + 3.2 * more_left)
    wider = [replace(side, kerb=side.kerb + 2.1 * side.parked) for side in (left, right)]
    lines = (-1.7, *([1.7] if more_right else []), *([-5.0] if more_left else []))
    gaps = [lot.z0 for side in wider for lot in side.lots if lot.kind == "gap"]
    zebras = tuple(z - 3.4 for z in gaps if 9 < z < 60)[:2]
    if not zebras and rng.random() < 0.3:
        zebras = (between(rng, 11, 26),)
    rails = pick(rng, (-3.4, -3.4, 0.0)) if tram or rng.random() < 0.12 else None
    return Street(*wider, lines, rails, zebras, pick(rng, (0, 0, 1, 2, 2)))


def turns(city: str, index: int, seed: int) -> dict[str, float]:
    """What rare things this scene shows, and how far on their stretch of road, 0 to 1.

    Both are spread evenly over the scenes of a city, so that small cities get their share.
    """
    phases = {name: phase(name, city, index, seed) for name in RARE}
    return {name: at / RARE[name][0] for name, at in phases.items() if at < RARE[name][0]}


def phase(name: str, city: str, index: int, seed: int) -> float:
    """A number in [0, 1) that visits all its values evenly as the index grows."""
    _, step = RARE[name]
    start = zlib.crc32(f"{name} {city} {seed}".encode()) / 2**32
    return (start + index * step) % 1


# ---------------------------------------------------------------- what stands where


def buildings(rng: np.random.Generator, city: City, side: Side) -> list[Thing]:
    """The row of houses of one side, with its gaps."""
    things, free = [], True
    for lot in side.lots:
        if lot.kind in ("gap", "park"):
            free = True
            continue
        back = {"house": 0.0, "garden": between(rng, 4, 7), "wall": between(rng, 5, 9),
                "parking": 12.0, "yard": between(rng, 3, 6)}[lot.kind]  # fmt: skip
        plaster, floors = (
            pick(rng, city.houses),
            int(rng.integers(city.floors[0], city.floors[1] + 1)),
        )
        pitch = between(rng, 2.2, 4.2) if rng.random() < city.pitch else 0.0
        home = paint.House(side.s(side.walk + back), lot.z0, lot.z1 - lot.z0, floors,
                           jitter(rng, plaster, 0.08), jitter(rng, city.roof), pitch, city.window,
                           pick(rng, city.kinds), free or back > 0)  # fmt: skip
        things.append(Thing(lot.z1 + back / 50, partial(paint.house, it=home)))
        free = back > 0
    return things


def edges(rng: np.random.Generator, city: City, side: Side) -> list[Thing]:
    """Fences, walls and hedges between sidewalk and lots, in pieces of about 3 m."""
    things = []
    for lot in side.lots:
        tall = {"fence": between(rng, 1.3, 2.0), "wall": between(rng, 1.4, 2.75),
                "hedge": between(rng, 1.0, 1.9)}.get(lot.edge)  # fmt: skip
        if tall is None:
            continue
        tall += 0.9 * (lot.kind == "wall")
        colour = {"fence": city.rail, "wall": city.wall, "hedge": city.leaf}[lot.edge]
        count = max(2, int((lot.z1 - lot.z0) / 3))
        piece = (lot.z1 - lot.z0) / count
        draw = {"fence": paint.fence, "wall": paint.wall, "hedge": paint.hedge}[lot.edge]
        for k in range(count):
            z = lot.z0 + k * piece
            made = partial(
                draw, s=side.s(side.walk + 0.1), z=z, length=piece, colour=colour, tall=tall
            )
            things.append(Thing(z + piece / 2, made))
    if side.rail:
        start = between(rng, 6, 16)
        for z in np.arange(start, start + between(rng, 6, 16), 2.0):
            if side.lot(z).kind != "gap":
                place = {"s": side.s(0.25), "z": z, "length": 2.0}
                rail = partial(paint.fence, **place, colour=city.rail, tall=1.05)
                things.append(Thing(z + 1.0, rail))
    return things


def trees(rng: np.random.Generator, city: City, side: Side) -> list[Thing]:
    """Trees along the kerb, in gardens and parks, and above walls."""
    places = []
    if rng.random() < 0.5 * city.trees:
        z, step = between(rng, 5, 14), between(rng, 8, 14) / city.trees
        where = side.verge / 2 if side.verge else 0.6
        while z < FAR * 0.7:
            if side.lot(z).kind != "gap":
                places.append((where, z, between(rng, 6, 9.5)))
            z += step * between(rng, 0.85, 1.2)
    for lot in side.lots:
        count = {"garden": 2, "park": 8, "wall": 3, "parking": 1}.get(lot.kind, 0)
        for _ in range(round(count * city.trees)):
            far = between(rng, 0.8, 12 if lot.kind == "park" else 4)
            tall = between(rng, 3, 11 if lot.kind == "park" else 7)
            places.append((side.walk + 0.6 + far, between(rng, lot.z0, lot.z1), tall))
    return [
        Thing(z, partial(paint.tree, s=side.s(beyond), z=z, shape=city.crown, leaf=city.leaf,
                         tall=tall), (side.s(beyond), 0.12 * tall, 0.4))
        for beyond, z, tall in places if z > 4
    ]  # fmt: skip


def furniture(rng: np.random.Generator, city: City, street: Street, side: Side) -> list[Thing]:
    """Lamp posts, signs, lights, bollards, benches and bins of one side."""
    things, post = [], {"paint": city.post}

    def add(draw: Callable, beyond: float, z: float, half: float = 0.1, **how: object) -> None:
        place = side.s(beyond)
        things.append(Thing(z, partial(draw, s=place, z=z, **how), (place, half, 2 * half)))

    z, step = between(rng, 6, 18), between(rng, 15, 22)
    while z < 80:
        add(paint.lamp_post, 0.45, z, **post)
        z += step
    for _ in range(int(rng.poisson(1.17))):
        add(paint.sign_post, between(rng, 0.4, 0.7), between(rng, 7, 34), **post)
    spots = [z for z in street.zebras] or ([between(rng, 14, 30)] if rng.random() < 0.15 else [])
    for z in spots:
        add(paint.traffic_light, 0.5, z + 3.2, lit=street.lit, **post)
        if rng.random() < 0.2:
            add(paint.traffic_light, 0.5, z + 14.5, lit=street.lit, **post)
    if not side.parked and not side.rail and rng.random() < 0.45:
        start, count = between(rng, 5, 16), int(rng.integers(4, 9))
        for k in range(count):
            add(paint.bollard, 0.3, start + 1.8 * k, **post)
    for draw, often in ((paint.bench, 0.35), (paint.bin_or_box, 0.8)):
        for _ in range(int(rng.poisson(often))):
            add(draw, side.walk - between(rng, 0.3, 0.6), between(rng, 8, 26), 0.5)
    return things


def walkers(rng: np.random.Generator, city: City, street: Street, side: Side) -> list[Thing]:
    """People on the sidewalk and on crosswalks, parked bicycles."""
    things = []

    def add(draw: Callable, s: float, z: float, half: float, **how: object) -> None:
        things.append(Thing(z, partial(draw, s=s, z=z, **how), (s, half, 0.4)))

    for _ in range(int(rng.poisson(4.4 * city.people))):
        z, beyond = between(rng, 7, 38), between(rng, side.verge + 0.5, side.walk - 0.4)
        for k in range(pick(rng, (1, 1, 1, 2, 2, 3))):
            add(paint.person, side.s(beyond) + 0.62 * k - 0.3, z + 0.3 * k, 0.25)
    for zebra in street.zebras:
        for _ in range(int(rng.poisson(0.8 * city.people))):
            s = side.sign * between(rng, 0.8, side.kerb)
            add(paint.person, s, zebra + between(rng, 0.6, 2.4), 0.25)
    if rng.random() < 0.26:
        z = between(rng, 7, 18)
        beyond = pick(rng, (side.verge + 0.4, side.walk - 0.5))
        for k in range(int(rng.integers(1, 5))):
            add(paint.bicycle, side.s(beyond), z + 0.8 * k, 0.5, ridden=False,
                turn=between(rng, 0.1, 0.9))  # fmt: skip
    return things


def traffic(
    rng: np.random.Generator, city: City, street: Street, rare: dict[str, float]
) -> list[Thing]:
    """Everything that drives or is parked; a lane takes one vehicle per stretch of road."""
    things, taken = [], {}

    def add(draw: Callable, s: float, z: float, half: float, length: float, **how: object) -> bool:
        stretches = taken.setdefault(round(s), [])
        if any(z < end + 2 and start < z + length + 2 for start, end in stretches):
            return False
        stretches.append((z, z + length))
        things.append(Thing(z, partial(draw, s=s, z=z, **how), (s, half, length)))
        return True

    if "tram" in rare:
        add(paint.tram, street.rails, 24 + 11 * rare["tram"], 1.2, 34, livery=city.tram)
    if "bus" in rare:
        s, z = pick(rng, (0.0, -3.4)), 18 + 14 * rare["bus"]
        while not add(paint.bus, s, z, 1.25, 11.5, coming=s < -2, livery=city.bus):
            s = -3.4 - s  # the tram is there
    if "truck" in rare:
        s, z = pick(rng, (0.0, -3.4)), 17.5 + 13 * rare["truck"]
        while not add(paint.truck, s, z, 1.25, 9.0, coming=s < -2) and z < 70:
            s, z = -3.4 - s, z + 4  # next to the bus, or behind it
    two_wheels(rng, street, rare, add)
    for side in (street.left, street.right):
        z = between(rng, 5, 10)
        while side.parked and z < 70:
            if rng.random() < 0.72 * city.parked and side.lot(z).kind != "gap":
                add(paint.car, side.s(-1.05), z, 0.9, 4.3, coming=side.sign < 0)
            z += between(rng, 5.2, 7)
    for s in (0.0, -3.4, 3.3 if 1.7 in street.lines else 0.0):
        for _ in range(int(rng.poisson(0.9))):
            add(paint.car, s, between(rng, 9, 50), 0.9, 4.3, coming=s < -2)
    if rng.random() < 0.1:
        add(paint.crossing_car, between(rng, -6, 5), between(rng, 24, 38), 2.1, 1.8)
    return things


def two_wheels(
    rng: np.random.Generator, street: Street, rare: dict[str, float], add: Callable[..., bool]
) -> None:
    """Riders on the road, and motorcycles ridden or parked at the kerb."""
    if "rider" in rare:
        for _ in range(pick(rng, (1, 1, 2))):
            s = pick(rng, (street.right.kerb - 0.8 - 2.1 * street.right.parked, -2.2, -4.2))
            add(paint.bicycle, s, between(rng, 8, 20), 0.5, 1.0, ridden=True,
                turn=between(rng, 0, 1.1))  # fmt: skip
    if "motorcycle" in rare:
        ridden = rng.random() < 0.4
        side = pick(rng, (street.left, street.right))
        s = pick(rng, (0.5, -2.6, -4.0)) if ridden else side.s(-1.05 if side.parked else 0.7)
        near = max(9, 2.6 * abs(s))  # in view
        add(paint.motorcycle, s, between(rng, near, near + 10), 0.6, 1.0, ridden=ridden,
            turn=between(rng, 0, 0.9))  # fmt: skip


# ---------------------------------------------------------------- sky and ground


def smooth_noise(
    rng: np.random.Generator, cells: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Soft blobs in [0, 1], the same at every size. cells and size (h, w) -> (h, w) float32"""
    grid = Image.fromarray(rng.random(cells, dtype=np.float32), "F")
    return np.clip(np.asarray(grid.resize(size[::-1], Image.Resampling.BICUBIC)), 0, 1)


def paint_sky(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """The sky down to the horizon: a gradient and clouds. (rows, w, 3) uint8"""
    air, rows = canvas.air, math.ceil(canvas.horizon)
    coarse = (rows // FINER, canvas.width // FINER)
    down = np.linspace(0, 1, coarse[0], dtype=np.float32)[:, None, None]
    top, low, lit = (np.array(c, np.float32) for c in (*air.sky, air.cloud_colour))
    clouds = sum(smooth_noise(rng, (4 * k, 6 * k), coarse) / k for k in (1, 2, 4)) / 1.75
    share = np.clip((clouds - 0.62 + 0.3 * air.cloud) * 5, 0, 0.85)[..., None]
    sky = (top + (low - top) * down) * (1 - share) + lit * (1 - 0.12 * clouds)[..., None] * share
    full = Image.fromarray(sky.clip(0, 255).astype(np.uint8)).resize((canvas.width, rows))
    return np.asarray(full)


def ground_grid(canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Where on the ground each pixel below the horizon lies: s (rows, w) and z (rows, 1), m."""
    view, first = canvas.view, math.ceil(canvas.horizon)
    below = np.arange(first, canvas.height, dtype=np.float32)[:, None] + 0.5 - canvas.horizon
    z = np.minimum(canvas.focal * view.eye / np.maximum(below, 0.3), 400)
    across = np.arange(canvas.width, dtype=np.float32)[None] + 0.5 - canvas.centre
    return across * z / canvas.focal - view.yaw * z - view.bend * z * z, z


def zones(street: Street, s: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label ids of the ground, and metres beyond the kerb (negative on the road). (rows, w) each"""
    labels = np.full(s.shape, ID["road"], dtype=np.uint8)
    beyond = np.where(s > 0, s - street.right.kerb, -s - street.left.kerb)
    for side, here in ((street.left, s <= 0), (street.right, s > 0)):
        ends = np.array([lot.z1 for lot in side.lots[:-1]])
        lots = np.searchsorted(ends, z[:, 0])
        land = {"garden": "terrain", "park": "terrain", "wall": "terrain", "gap": "road",
                "house": "sidewalk", "parking": "parking", "yard": "ground"}  # fmt: skip
        kinds = np.array([ID[land[lot.kind]] for lot in side.lots], dtype=np.uint8)[lots][:, None]
        open_end = kinds == ID["road"]
        walk = np.where(open_end, ID["road"], ID["sidewalk"])
        verge = np.where(open_end, ID["road"], ID["terrain"])
        outside = np.where(beyond > side.walk, kinds, np.where(beyond > side.verge, walk, verge))
        labels = np.where(here & (beyond > 0), outside, labels)
    return labels.astype(np.uint8), beyond


def paint_ground(
    canvas: Canvas, rng: np.random.Generator, city: City, street: Street
) -> tuple[np.ndarray, np.ndarray]:
    """Road with markings, kerb, sidewalk slabs, grass: (rows, w, 3) float32 and ids (rows, w)"""
    s, z = ground_grid(canvas)
    labels, beyond = zones(street, s, z)
    road, walk, grass = (labels == ID[name] for name in ("road", "sidewalk", "terrain"))
    colours = np.zeros((256, 3), dtype=np.float32)
    colours[ID["road"]], colours[ID["sidewalk"]] = city.asphalt, city.slab
    colours[ID["terrain"]] = mix(city.leaf, (150, 160, 80), 0.35)
    colours[ID["parking"]] = mix(city.asphalt, city.slab, 0.5)
    colours[ID["ground"]] = mix(city.slab, (180, 140, 110), 0.5)
    grain = rng.random((64, 64), dtype=np.float32) - 0.5
    rough, fine = world_noise(grain, s, z, 1.3), world_noise(grain, s, z, 9.0)
    light = 1 + 0.10 * np.exp(-z / 40) * rough
    light += (0.12 + 0.3 * grass) * np.exp(-z / (14 + 10 * grass)) * fine
    close = np.exp(-z / 14)  # fine patterns fade before they flicker
    light -= 0.25 * close * (walk & (grid_lines(s, city.slab_size) | grid_lines(z, city.slab_size)))
    if city.cobbled:
        light -= 0.3 * np.exp(-z / 9) * (road & (grid_lines(s, 0.34) | grid_lines(z, 0.4)))
    for lane in (0.0, -3.4):  # tyres were here
        light -= np.maximum(0.05 - 0.12 * np.abs(np.abs(s - lane) - 0.8), 0)
    for _ in range(3):  # mended asphalt
        s0, z0 = between(rng, -6, 3), between(rng, 5, 25)
        wide, rows = between(rng, 0.4, 1.2), np.abs(z[:, 0] - z0) < between(rng, 0.6, 3)
        light[rows] -= between(rng, -0.06, 0.14) * (road[rows] & (np.abs(s[rows] - s0) < wide))
    rgb = colours[labels]
    rgb *= light[..., None]
    rgb[walk & (beyond < 0.22) & (beyond > 0)] = mix(city.slab, (235, 232, 226), 0.4)
    paint_markings(rgb, road, street, s, z, beyond)
    return rgb, labels


def world_noise(grain: np.ndarray, s: np.ndarray, z: np.ndarray, scale: float) -> np.ndarray:
    """Grain lying on the ground, `scale` to a metre. grain (64, 64), s, z -> (rows, w)"""
    across = (s * scale).astype(np.int32) & 63
    return grain.ravel()[across + (((z * scale).astype(np.int32) & 63) << 6)]


def grid_lines(metres: np.ndarray, step: float, share: float = 0.1) -> np.ndarray:
    """True on lines `step` metres apart that take `share` of the ground."""
    cells = metres / step
    return cells - np.floor(cells) < share


def paint_markings(
    rgb: np.ndarray, road: np.ndarray, street: Street, s: np.ndarray, z: np.ndarray,
    beyond: np.ndarray,
) -> None:  # fmt: skip
    """White lines, crosswalks and rails, drawn into rgb (rows, w, 3)."""
    white = np.zeros(s.shape, dtype=bool)
    for line in street.lines:
        white |= (np.abs(s - line) < 0.08) & (z % 9 < 4.5)
    for side, here in ((street.left, s < 0), (street.right, s > 0)):
        if side.parked:
            white |= here & (np.abs(beyond + 2.15) < 0.06)
    for zebra in street.zebras:
        band, stop = (z > zebra) & (z < zebra + 3), np.abs(z - zebra + 1.2) < 0.2
        white = np.where(band, grid_lines(s, 1.1, 0.5) & (beyond < -0.2), white)
        white |= stop & (s > -1.6)
    if street.rails is not None:
        off = np.abs(s - street.rails)
        rgb[road & (off < 1.1)] *= 1.08
        rgb[road & (np.abs(off - 0.72) < 0.16)] *= 0.72
        rgb[road & (np.abs(off - 0.72) < 0.06)] = (176, 178, 182)
    white &= road & (beyond < 0)
    rgb[white] = rgb[white] * 0.2 + np.array((180, 180, 176), dtype=np.float32)


def shadows(canvas: Canvas, street: Street, things: list[Thing]) -> np.ndarray:
    """How much light reaches the ground, 0 to 1: soft under things, long where the sun is low.

    (rows, w) float32 for the rows below the horizon
    """
    air, first = canvas.air, math.ceil(canvas.horizon)
    small = (canvas.width // 2, canvas.height // 2)

    def quad(s0: float, s1: float, z0: float, z1: float) -> list[tuple[float, float]]:
        corners = ((s0, z0), (s1, z0), (s1, z1), (s0, z1))
        seen = [canvas.project(canvas.view.x(s, z), 0, max(z, paint.NEAR)) for s, z in corners]
        return [(x / 2, y / 2) for x, y in seen]

    cast = Image.new("L", small, 0)
    brush = ImageDraw.Draw(cast)
    away = -air.sun_side
    side = street.right if air.sun_side > 0 else street.left
    for lot in side.lots:
        if lot.kind == "house" and air.sunny > 0.3:
            start, reach = side.s(side.walk), (2.0 + (lot.z0 * 7.3) % 5)
            brush.polygon(quad(start, start + away * reach, lot.z0, lot.z1), int(150 * air.sunny))
    touch = Image.new("L", small, 0)
    pen = ImageDraw.Draw(touch)
    for thing in things:
        if thing.shade and thing.z < 70:
            s, half, length = thing.shade
            z0, z1 = thing.z - 0.12 * half - 0.1, thing.z + length
            pen.polygon(quad(s - half * 1.08, s + half * 1.08, z0, z1), 165)
            slant = sorted((s - away * half, s + away * half * (1 + 2.2)))
            brush.polygon(quad(*slant, z0, z1), int(130 * air.sunny))
    unit = canvas.unit / 2
    cast = cast.filter(ImageFilter.BoxBlur(0.5 * unit))
    touch = touch.filter(ImageFilter.BoxBlur(0.9 * unit))
    dark = np.maximum(np.asarray(cast), np.asarray(touch)).astype(np.float32) / 255
    full = Image.fromarray(dark, "F").resize(
        (canvas.width, canvas.height), Image.Resampling.BILINEAR
    )
    return 1 - np.asarray(full)[first:]


def backdrop(
    canvas: Canvas, rng: np.random.Generator, city: City, street: Street, things: list[Thing]
) -> None:
    """Sky and ground, hazed with distance, and a far skyline where the street ends."""
    air = canvas.air
    sky = paint_sky(canvas, rng)
    ground, ids = paint_ground(canvas, rng, city, street)
    _, z = ground_grid(canvas)
    clear = np.exp(-z / air.haze_range)
    ground *= (shadows(canvas, street, things) * clear)[..., None]
    ground *= np.array(air.light, dtype=np.float32)
    ground += np.array(air.haze, dtype=np.float32) * (1 - clear)[..., None]
    picture = np.concatenate([sky, ground.clip(0, 255).astype(np.uint8)])
    labels = np.full(picture.shape[:2], ID["sky"], dtype=np.uint8)
    labels[len(sky) :] = ids
    canvas.start(picture, labels)
    skyline(canvas, rng, city)


def skyline(canvas: Canvas, rng: np.random.Generator, city: City) -> None:
    """Hazy houses and trees beyond the last lot."""
    x, z = -75.0, 125.0
    while x < 75:
        wide, tall = between(rng, 6, 14), between(rng, 9, 22)
        sheet = paint.Plane(canvas, x, z, 1.0, 0.0, 0.9)
        if rng.random() < 0.55:
            front = pick(rng, city.houses)
            sheet.rect(0, -1, wide, tall, front, "building")
            for v in np.arange(3, tall - 2, 3.2):
                sheet.rect(0.8, v, wide - 0.8, v + 1.4, mix(front, paint.GLASS, 0.45))
        else:
            for k in range(4):
                r = between(rng, 3.5, 6)
                sheet.disc(wide * k / 3, r * 0.8, r, jitter(rng, city.leaf), "vegetation")
        x += wide * 0.9


# ---------------------------------------------------------------- the camera's part


def bonnet(canvas: Canvas, city: City) -> None:
    """The bonnet of our own car, mirroring the sky; void (ego vehicle)."""
    w, h, high = canvas.width, canvas.height, city.bonnet_height
    steps = np.linspace(-1, 1, 41)
    for k, lift in enumerate((1.0, 0.86, 0.7, 0.5, 0.25)):
        edge = [(w / 2 + w * 0.53 * u, h * (1 - high * lift * (1 - 0.62 * abs(u) ** 2.6)))
                for u in steps]  # fmt: skip
        shine = (0.42, 0.3, 0.2, 0.12, 0.06)[k]
        colour = tuple(int(c) for c in mix(city.bonnet, canvas.air.sky[1], shine))
        outline = [*edge, (w, h), (0, h)]
        canvas.brush.polygon(outline, colour)
        if k == 0:
            canvas.marker.polygon(outline, ID["ego vehicle"])


def grade(image: np.ndarray, labels: np.ndarray, air: Air, typical: tuple[Colour, ...]) -> None:
    """Pull each class towards a colour of its own, as illustrators do, in place.

    It is what makes the scenes learnable in minutes: shapes alone take thousands of steps. Signs
    and lights have colours of their own already and are pulled less.
    """
    colours, pull = np.zeros((256, 3), np.float32), np.zeros(256, np.float32)
    for name, colour in zip(TYPICAL, typical, strict=True):
        colours[ID[name]] = np.array(colour) * air.light
        pull[ID[name]] = GRADING / 3 if name in ("traffic sign", "traffic light") else GRADING
    image += pull[labels][..., None] * (colours[labels] - image)


def develop(
    canvas: Canvas, rng: np.random.Generator, size: tuple[int, int], typical: tuple[Colour, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Average the picture down, grade, add texture, weather, vignette and noise; pick labels."""
    labels = np.ascontiguousarray(np.asarray(canvas.labels)[1::FINER, 1::FINER])
    image = np.asarray(canvas.picture.reduce(FINER)).astype(np.float32)
    grade(image, labels, canvas.air, typical)
    amount = np.full(256, 0.02, dtype=np.float32)
    for name, share in (("vegetation", 0.3), ("terrain", 0.2), ("building", 0.07), ("wall", 0.14),
                        ("sky", 0.0), ("road", 0.05), ("sidewalk", 0.06)):  # fmt: skip
        amount[ID[name]] = share
    clumps = 0.5 * smooth_noise(rng, (64, 128), size) + 0.5 * smooth_noise(rng, (128, 256), size)
    bare = np.clip(1.25 - image[..., 1] / canvas.air.haze[1], 0.1, 1)  # haze hides texture
    image *= (1 + amount[labels] * bare * 2 * (clumps - 0.5))[..., None]
    if canvas.air.rain:
        wet(canvas, image, labels)
    if canvas.air.sunny > 0.85:
        sun_glow(canvas, image)
    down, right = np.ogrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    image *= (1.04 - 0.16 * (0.6 * down**2 + right**2))[..., None].astype(np.float32)
    image += rng.normal(0, 2.4, size).astype(np.float32)[..., None]
    border(image, labels)
    return image.clip(0, 255).astype(np.uint8), labels


def wet(canvas: Canvas, image: np.ndarray, labels: np.ndarray) -> None:
    """Mirror what is above the horizon in the wet road, in place."""
    horizon, unit = round(canvas.horizon / FINER), len(image) / 128
    rows = np.arange(len(image) - horizon)
    mirror = Image.fromarray(image[np.clip(horizon - rows * 7 // 10, 0, None)].astype(np.uint8))
    small = mirror.resize(
        (mirror.width, max(2, round(len(rows) / (4 * unit)))), Image.Resampling.BOX
    )
    blurred = np.asarray(small.resize(mirror.size, Image.Resampling.BICUBIC), dtype=np.float32)
    on_road = (labels[horizon:] == ID["road"])[..., None] * np.float32(0.3)
    image[horizon:] += (blurred - image[horizon:]) * on_road


def sun_glow(canvas: Canvas, image: np.ndarray) -> None:
    """A low or hard sun veils its side of the picture, in place."""
    height, width = image.shape[:2]
    down = (np.arange(height, dtype=np.float32) / height - 0.12) / 0.4
    across = (np.arange(width, dtype=np.float32) / width - 0.5 - 0.42 * canvas.air.sun_side) / 0.4
    veil = np.exp(-(down**2))[:, None] * np.exp(-(across**2))[None]
    image += (60 * veil)[..., None] * np.array(canvas.air.sky[1], dtype=np.float32) / 255


def border(image: np.ndarray, labels: np.ndarray) -> None:
    """The rim that rectifying leaves: dark, and void (out of roi, rectification border)."""
    rim = max(1, round(len(labels) / 128))
    for edge in (np.s_[:rim], np.s_[-rim:], np.s_[:, :rim], np.s_[:, -rim:]):
        image[edge] *= 0.25
        labels[edge] = ID["out of roi"]
    labels[-2 * rim : -rim, rim:-rim] = ID["rectification border"]


# ---------------------------------------------------------------- scenes and the tree


def draw_scene(
    city: str, index: int, seed: int = 0, size: tuple[int, int] = (128, 256)
) -> tuple[np.ndarray, np.ndarray]:
    """One street scene: image (H, W, 3) uint8 RGB and labels (H, W) uint8 Cityscapes ids.

    The same (city, index, seed) is the same scene at every size.
    """
    check_size(size)
    if seed < 0 or index < 0:
        raise ValueError(f"seed is {seed} and index {index}; wanted 0 or more: change the negative")
    style = city_style(city)
    source = np.random.SeedSequence([seed, zlib.crc32(city.encode()), index, VERSION])
    rng, grain = (np.random.default_rng(s) for s in source.spawn(2))
    rare = turns(city, index, seed)
    view = View(between(rng, 1.32, 1.5), between(rng, 0.4, 0.46), between(rng, -0.06, 0.06),
                pick(rng, (0, 1, -1)) * between(rng, 0.0006, 0.0022))  # fmt: skip
    air = weather_air(rng, style)
    street = plan_street(rng, style, "tram" in rare)
    things = traffic(rng, style, street, rare)
    for side in (street.left, street.right):
        for row in (buildings, edges, trees):
            things += row(rng, style, side)
        for row in (furniture, walkers):
            things += row(rng, style, street, side)
    canvas = Canvas(size, view, air)
    backdrop(canvas, grain, style, street, things)
    for thing in sorted(things, key=lambda thing: -thing.z):
        thing.draw(canvas, rng)
    bonnet(canvas, style)
    return develop(canvas, grain, size, style.typical)


def check_size(size: tuple[int, int]) -> None:
    """Scenes are at least 64 x 128 and twice as wide as high."""
    height, width = size
    if height < 64 or width != 2 * height:
        raise ValueError(
            f"size is {height} x {width} (height x width); wanted at least 64 x 128 and twice as "
            f"wide as high: use ({max(64, height)}, {2 * max(64, height)})"
        )


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
    """Draw all scenes with one process per core."""
    jobs = [
        (tree, "val" if city in SPLIT.test_cities else "train", city, index, seed, size)
        for city, images in SPLIT.images
        for index in range(max(1, round(images / fraction)))
    ]
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
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
