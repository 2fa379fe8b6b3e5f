"""The plan of a street: its city, its weather, and what stands where."""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from cilkit.checks import unknown
from cilkit.splits import load_split
from cilkit.toyscapes import objects
from cilkit.toyscapes.canvas import Air, Canvas, Colour, between, jitter, mix, pick

TYPICAL = {  # the colour towards which `grade` pulls what is labelled so
    "road": (88, 88, 94), "sidewalk": (192, 172, 160), "vegetation": (58, 108, 44),
    "terrain": (156, 192, 80), "sky": (184, 212, 240), "building": (190, 142, 104),
    "wall": (126, 104, 136), "fence": (116, 70, 40), "pole": (70, 92, 116),
    "traffic light": (24, 22, 18), "traffic sign": (250, 210, 50), "person": (206, 96, 140),
    "rider": (244, 130, 30), "car": (70, 84, 170), "truck": (236, 236, 226),
    "bus": (216, 52, 44), "train": (40, 170, 160), "motorcycle": (60, 24, 70),
    "bicycle": (150, 24, 60),
}  # fmt: skip

VERSION = 1  # of the drawing: a tree drawn by another version is not the same data set
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
        home = objects.House(side.s(side.walk + back), lot.z0, lot.z1 - lot.z0, floors,
                           jitter(rng, plaster, 0.08), jitter(rng, city.roof), pitch, city.window,
                           pick(rng, city.kinds), free or back > 0)  # fmt: skip
        things.append(Thing(lot.z1 + back / 50, partial(objects.house, it=home)))
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
        draw = {"fence": objects.fence, "wall": objects.wall, "hedge": objects.hedge}[lot.edge]
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
                rail = partial(objects.fence, **place, colour=city.rail, tall=1.05)
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
        Thing(z, partial(objects.tree, s=side.s(beyond), z=z, shape=city.crown, leaf=city.leaf,
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
        add(objects.lamp_post, 0.45, z, **post)
        z += step
    for _ in range(int(rng.poisson(1.17))):
        add(objects.sign_post, between(rng, 0.4, 0.7), between(rng, 7, 34), **post)
    spots = [z for z in street.zebras] or ([between(rng, 14, 30)] if rng.random() < 0.15 else [])
    for z in spots:
        add(objects.traffic_light, 0.5, z + 3.2, lit=street.lit, **post)
        if rng.random() < 0.2:
            add(objects.traffic_light, 0.5, z + 14.5, lit=street.lit, **post)
    if not side.parked and not side.rail and rng.random() < 0.45:
        start, count = between(rng, 5, 16), int(rng.integers(4, 9))
        for k in range(count):
            add(objects.bollard, 0.3, start + 1.8 * k, **post)
    for draw, often in ((objects.bench, 0.35), (objects.bin_or_box, 0.8)):
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
            add(objects.person, side.s(beyond) + 0.62 * k - 0.3, z + 0.3 * k, 0.25)
    for zebra in street.zebras:
        for _ in range(int(rng.poisson(0.8 * city.people))):
            s = side.sign * between(rng, 0.8, side.kerb)
            add(objects.person, s, zebra + between(rng, 0.6, 2.4), 0.25)
    if rng.random() < 0.26:
        z = between(rng, 7, 18)
        beyond = pick(rng, (side.verge + 0.4, side.walk - 0.5))
        for k in range(int(rng.integers(1, 5))):
            add(objects.bicycle, side.s(beyond), z + 0.8 * k, 0.5, ridden=False,
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
        add(objects.tram, street.rails, 24 + 11 * rare["tram"], 1.2, 34, livery=city.tram)
    if "bus" in rare:
        s, z = pick(rng, (0.0, -3.4)), 18 + 14 * rare["bus"]
        while not add(objects.bus, s, z, 1.25, 11.5, coming=s < -2, livery=city.bus):
            s = -3.4 - s  # the tram is there
    if "truck" in rare:
        s, z = pick(rng, (0.0, -3.4)), 17.5 + 13 * rare["truck"]
        while not add(objects.truck, s, z, 1.25, 9.0, coming=s < -2) and z < 70:
            s, z = -3.4 - s, z + 4  # next to the bus, or behind it
    two_wheels(rng, street, rare, add)
    for side in (street.left, street.right):
        z = between(rng, 5, 10)
        while side.parked and z < 70:
            if rng.random() < 0.72 * city.parked and side.lot(z).kind != "gap":
                add(objects.car, side.s(-1.05), z, 0.9, 4.3, coming=side.sign < 0)
            z += between(rng, 5.2, 7)
    for s in (0.0, -3.4, 3.3 if 1.7 in street.lines else 0.0):
        for _ in range(int(rng.poisson(0.9))):
            add(objects.car, s, between(rng, 9, 50), 0.9, 4.3, coming=s < -2)
    if rng.random() < 0.1:
        add(objects.crossing_car, between(rng, -6, 5), between(rng, 24, 38), 2.1, 1.8)
    return things


def two_wheels(
    rng: np.random.Generator, street: Street, rare: dict[str, float], add: Callable[..., bool]
) -> None:
    """Riders on the road, and motorcycles ridden or parked at the kerb."""
    if "rider" in rare:
        for _ in range(pick(rng, (1, 1, 2))):
            s = pick(rng, (street.right.kerb - 0.8 - 2.1 * street.right.parked, -2.2, -4.2))
            add(objects.bicycle, s, between(rng, 8, 20), 0.5, 1.0, ridden=True,
                turn=between(rng, 0, 1.1))  # fmt: skip
    if "motorcycle" in rare:
        ridden = rng.random() < 0.4
        side = pick(rng, (street.left, street.right))
        s = pick(rng, (0.5, -2.6, -4.0)) if ridden else side.s(-1.05 if side.parked else 0.7)
        near = max(9, 2.6 * abs(s))  # in view
        add(objects.motorcycle, s, between(rng, near, near + 10), 0.6, 1.0, ridden=ridden,
            turn=between(rng, 0, 0.9))  # fmt: skip
