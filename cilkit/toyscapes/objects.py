"""Painters of what stands in a street: people, vehicles, posts, signs, trees, houses."""

import math
from dataclasses import dataclass

import numpy as np

from cilkit.toyscapes.canvas import ID, Canvas, Colour, Plane, Point, between, jitter, mix, pick

GLASS = (52, 62, 74)
TYRE = (28, 28, 30)
SKIN = ((236, 198, 170), (205, 158, 122), (150, 104, 76), (104, 70, 50))
CLOTHES = (
    (38, 42, 56), (60, 60, 64), (150, 40, 46), (44, 84, 140), (224, 222, 214), (206, 160, 60),
    (70, 104, 74), (126, 66, 104), (230, 110, 60), (92, 146, 170), (30, 30, 34), (196, 120, 140),
)  # fmt: skip
PAINT = (
    (34, 36, 40), (68, 72, 78), (150, 154, 158), (206, 208, 210), (232, 232, 230), (140, 26, 32),
    (28, 52, 108), (60, 90, 130), (44, 70, 56), (112, 92, 74), (188, 148, 40), (22, 24, 30),
)  # fmt: skip
CARGO = ((232, 232, 226), (206, 208, 204), (70, 104, 160), (196, 70, 44), (226, 184, 70))
RED, BLUE, YELLOW, WHITE = (206, 28, 38), (24, 84, 178), (240, 194, 24), (240, 240, 236)


def person(canvas: Canvas, rng: np.random.Generator, s: float, z: float) -> None:
    """Someone standing or walking, 1.1 (a child) to 1.95 m tall."""
    tall = between(rng, 1.6, 1.95) if rng.random() < 0.88 else between(rng, 1.1, 1.4)
    sheet, step = canvas.plane(s, z), between(rng, 0.04, 0.2) * tall
    coat, trousers = jitter(rng, pick(rng, CLOTHES)), jitter(rng, pick(rng, CLOTHES[:5]))
    skin, wide = pick(rng, SKIN), between(rng, 0.125, 0.155) * tall
    shoe = (30, 28, 28)
    for side in (-1, 1):
        foot = side * step
        leg = [(-side * 0.02, 0.5), (side * 0.105, 0.5)]
        leg += [(foot / tall + side * 0.05, 0.0), (foot / tall - side * 0.045, 0.0)]
        points = [(a * tall, v * tall) for a, v in leg]
        sheet.poly(points, mix(trousers, (0, 0, 0), 0.12 * (side > 0)), "person")
        sheet.rect(foot - 0.05 * tall, 0, foot + 0.07 * tall, 0.035 * tall, shoe, "person")
    for side in (-1, 1):
        hand = (side * (wide + between(rng, 0, 0.09)), 0.46 * tall)
        sheet.bar((side * wide * 0.9, 0.8 * tall), hand, 0.1, mix(coat, (0, 0, 0), 0.2), "person")
    hem = between(rng, 0.38, 0.5) * tall
    torso = [(-wide, 0.8 * tall), (wide, 0.8 * tall), (wide * 0.95, hem), (-wide * 0.95, hem)]
    sheet.poly([(-wide * 0.6, 0.84 * tall), (wide * 0.6, 0.84 * tall), *torso[1:], torso[0]],
               coat, "person")  # fmt: skip
    sheet.rect(wide * 0.35, hem, wide * 0.95, 0.8 * tall, mix(coat, (0, 0, 0), 0.18))
    head(sheet, rng, 0, 0.915 * tall, 0.078 * tall, skin, "person")
    if rng.random() < 0.3:
        a = wide * pick(rng, (-1.25, 0.7))
        sheet.rect(a, 0.42 * tall, a + 0.22, 0.62 * tall, pick(rng, CLOTHES), "person")


def head(
    sheet: Plane, rng: np.random.Generator, a: float, v: float, r: float, skin: Colour, label: str
) -> None:
    """A head with hair, a cap or a helmet."""
    hair = pick(rng, ((40, 28, 22), (92, 62, 36), (170, 132, 76), (120, 118, 116), (24, 22, 24)))
    sheet.disc(a, v, r, skin, label)
    sheet.disc(a, v + 0.35 * r, 0.95 * r, hair, label)
    sheet.disc(a, v - 0.25 * r, 0.7 * r, skin)


def bicycle(
    canvas: Canvas, rng: np.random.Generator, s: float, z: float, turn: float, ridden: bool
) -> None:
    """A bicycle, with its rider if ridden: two rings, a frame, a handlebar."""
    sheet, frame = canvas.plane(s, z, turn), jitter(rng, pick(rng, (*PAINT, RED, BLUE, YELLOW)))
    way = pick(rng, (-1, 1))
    for a in (-0.54, 0.54):
        ring(sheet, a, 0.36, 0.36, "bicycle")
    saddle, crank, bars = (-0.22 * way, 0.92), (-0.04 * way, 0.32), (0.4 * way, 0.98)
    rear, front = (-0.54 * way, 0.36), (0.54 * way, 0.36)
    for start, end in ((saddle, crank), (crank, bars), (saddle, bars), (rear, crank),
                       (rear, saddle), (front, bars)):  # fmt: skip
        sheet.bar(start, end, 0.07, frame, "bicycle", 0.9)
    sheet.bar((saddle[0] - 0.12, 0.97), (saddle[0] + 0.12, 0.97), 0.08, TYRE, "bicycle", 0.9)
    sheet.bar((bars[0] - 0.1, 1.04), (bars[0] + 0.1, 1.0), 0.06, TYRE, "bicycle", 0.9)
    if ridden:
        rider(sheet, rng, way, 1.0, crank, (bars[0], 1.05), rng.random() < 0.6)


def ring(sheet: Plane, a: float, v: float, r: float, label: str) -> None:
    """A spoked wheel: a tyre, and through the spokes what is behind; labelled whole."""
    count = 14
    turns = [2 * math.pi * k / count for k in range(count + 1)]
    rim = [(a + r * math.cos(t), v + r * math.sin(t)) for t in turns]
    sheet.canvas.marker.polygon([sheet.at(*point) for point in rim], ID[label])
    for start, end in zip(rim, rim[1:], strict=False):
        sheet.bar(start, end, 0.07, TYRE, label, 0.8)
    for k in (0, 2, 4, 6):
        sheet.bar(rim[k], rim[k + 7], 0.015, (120, 122, 126))


def rider(
    sheet: Plane, rng: np.random.Generator, way: int, seat: float, foot: Point, hands: Point,
    helmet: bool,
) -> None:  # fmt: skip
    """Someone sitting at height `seat`, leaning towards the hands; drawn over the vehicle."""
    coat, trousers = jitter(rng, pick(rng, CLOTHES)), jitter(rng, pick(rng, CLOTHES[:5]))
    hip, chest = (-0.2 * way, seat), (0.08 * way, seat + 0.55)
    knee = (0.18 * way, seat - 0.12)
    sheet.bar(hip, knee, 0.2, trousers, "rider", 1.2)
    sheet.bar(knee, (foot[0], foot[1] - 0.12), 0.15, trousers, "rider", 1.1)
    sheet.bar((hip[0], seat - 0.1), chest, 0.36, coat, "rider", 1.6)
    sheet.bar(chest, hands, 0.12, mix(coat, (0, 0, 0), 0.25), "rider", 0.9)
    top = (chest[0] + 0.08 * way, chest[1] + 0.2)
    skin = pick(rng, SKIN)
    head(sheet, rng, *top, 0.15, skin, "rider")
    if helmet:
        sheet.disc(top[0], top[1] + 0.05, 0.15, pick(rng, (RED, WHITE, TYRE, BLUE)), "rider")
        sheet.disc(top[0] + 0.06 * way, top[1] - 0.06, 0.09, skin)


def motorcycle(
    canvas: Canvas, rng: np.random.Generator, s: float, z: float, turn: float, ridden: bool
) -> None:
    """A motorcycle, with its rider if ridden: thick wheels, a tank, an engine, a lamp."""
    sheet, tank = canvas.plane(s, z, turn), jitter(rng, pick(rng, (*PAINT, RED, RED, BLUE)))
    way = pick(rng, (-1, 1))
    for a in (-0.72, 0.72):
        sheet.disc(a, 0.34, 0.34, TYRE, "motorcycle")
        sheet.disc(a, 0.34, 0.17, (130, 132, 136))
    body = [(-0.95, 0.72), (-0.9, 0.88), (-0.1, 0.82), (0.1, 1.02), (0.5, 1.0), (0.62, 0.66),
            (0.35, 0.24), (-0.4, 0.24)]  # fmt: skip
    sheet.poly([(a * way, v) for a, v in body], mix(tank, (0, 0, 0), 0.55), "motorcycle")
    sheet.poly([(a * way, v) for a, v in ((0.0, 0.74), (0.08, 1.02), (0.5, 1.02), (0.6, 0.74))],
               tank, "motorcycle")  # fmt: skip
    sheet.disc(0.02 * way, 0.42, 0.2, (150, 150, 152))
    sheet.bar((0.72 * way, 0.34), (0.46 * way, 1.12), 0.1, (120, 122, 128), "motorcycle", 1)
    sheet.bar((0.34 * way, 1.16), (0.54 * way, 1.12), 0.07, TYRE, "motorcycle", 1)
    sheet.disc(0.66 * way, 0.95, 0.1, (246, 240, 206), "motorcycle")
    sheet.disc(-0.93 * way, 0.8, 0.06, RED, "motorcycle")
    if ridden:
        rider(sheet, rng, way, 0.95, (0.05 * way, 0.45), (0.42 * way, 1.18), True)


def cuboid(
    canvas: Canvas, s: float, z: float, width: float, length: float
) -> tuple[Plane, Plane | None]:
    """The end of a vehicle that looks at us, and its side if we see one."""
    end, x = canvas.plane(s, z), canvas.view.x(s, z)
    if abs(x) < width / 2:
        return end, None
    inner = s - math.copysign(width / 2, x)
    return end, canvas.along(inner, z, length)


def car(canvas: Canvas, rng: np.random.Generator, s: float, z: float, coming: bool = False) -> None:
    """A car along the street, seen from behind or coming towards us."""
    kind = pick(rng, ("hatch", "hatch", "saloon", "estate", "van"))
    tall = {"hatch": 1.5, "saloon": 1.42, "estate": 1.5, "van": 1.92}[kind] + between(rng, 0, 0.12)
    paint, width, length = jitter(rng, pick(rng, PAINT)), between(rng, 1.7, 1.88), 4.3
    end, side = cuboid(canvas, s, z, width, length)
    if side:
        car_side(side, kind, paint, tall, length, coming, "car")
    half, waist = width / 2, 0.62 * tall
    for a in (-half + 0.05, half - 0.27):
        end.rect(a, 0, a + 0.22, 0.4, TYRE, "car")
    car_cabin(canvas, s, z, kind, paint, (half, waist, tall, length), coming)
    end.poly([(-half, 0.2), (half, 0.2), (half, waist - 0.06), (half * 0.94, waist + 0.03),
              (-half * 0.94, waist + 0.03), (-half, waist - 0.06)], paint, "car")  # fmt: skip
    car_end(end, half, waist, paint, coming)


CAR_SHAPES = {  # shares of the length: boot, from boot to roof, from bonnet to roof, bonnet
    "hatch": (0.03, 0.1, 0.2, 0.26),
    "saloon": (0.17, 0.1, 0.18, 0.26),
    "estate": (0.02, 0.06, 0.2, 0.26),
    "van": (0.01, 0.02, 0.14, 0.14),
}


def car_cabin(
    canvas: Canvas, s: float, z: float, kind: str, paint: Colour,
    measures: tuple[float, float, float, float], coming: bool,
) -> None:  # fmt: skip
    """The window that looks at us, set back behind the boot, or the bonnet of a car that comes."""
    half, waist, tall, length = measures
    boot, rear, front, bonnet = CAR_SHAPES[kind]
    back, rise = (bonnet, front) if coming else (boot, rear)
    low, high = canvas.plane(s, z + back * length), canvas.plane(s, z + (back + rise) * length)
    end, narrow = canvas.plane(s, z), half * 0.88

    def sheet(a0: float, v0: float, a1: float, v1: float, colour: Colour, label: str = "") -> None:
        corners = [low.at(-a0, v0), low.at(a0, v0), high.at(a1, v1), high.at(-a1, v1)]
        low.fill(corners, colour, label)

    deck = [end.at(-half, waist), end.at(half, waist), low.at(half, waist), low.at(-half, waist)]
    low.fill(deck, mix(paint, canvas.air.sky[1], 0.18), "car")
    sheet(half, waist - 0.05, half * 0.98, tall - 0.03, mix(paint, (0, 0, 0), 0.14), "car")
    sheet(narrow, waist - 0.05, narrow, tall, mix(paint, (0, 0, 0), 0.1), "car")
    glass = mix(GLASS, canvas.air.sky[1], 0.28)
    sheet(half * 0.86, waist + 0.05, half * 0.8, tall - 0.1, glass)
    if coming:
        sheet(half * 0.55, waist + 0.06, half * 0.5, waist + 0.24, mix(glass, TYRE, 0.5))


def car_end(end: Plane, half: float, waist: float, paint: Colour, coming: bool) -> None:
    """Lamps, number plate, bumper and grille of a car."""
    end.rect(-half, 0.24, half, 0.42, mix(paint, (0, 0, 0), 0.45))
    lamp = (250, 246, 226) if coming else (196, 18, 24)
    for side in (-1, 1):
        inner, outer = side * half * 0.66, side * half * 0.97
        end.rect(min(inner, outer), waist - 0.28, max(inner, outer), waist - 0.1, lamp)
    if coming:
        end.rect(-half * 0.55, waist - 0.3, half * 0.55, waist - 0.14, (34, 34, 38))
    end.rect(-0.26, 0.42, 0.26, 0.54, (226, 226, 220))
    end.rect(-half * 0.93, waist - 0.05, half * 0.93, waist, mix(paint, (255, 255, 255), 0.18))


def car_side(
    side: Plane, kind: str, paint: Colour, tall: float, length: float, mirrored: bool, label: str
) -> None:
    """The side of a car, its boot at a = 0, or its bonnet if mirrored."""
    waist, dark = 0.62 * tall, mix(paint, (0, 0, 0), 0.06)
    boot, rear, front, bonnet = CAR_SHAPES[kind]
    roof, screen = 1 - bonnet - front, 1 - bonnet

    def shape(points: list[Point], colour: Colour, label: str = "") -> None:
        side.poly([((1 - a if mirrored else a) * length, v) for a, v in points], colour, label)

    shape([(0, 0.24), (0, waist), (boot, waist + 0.04), (boot + rear, tall), (roof, tall),
           (screen, waist + 0.05), (0.97, waist - 0.1), (1, 0.5), (1, 0.24)],
          dark, label)  # fmt: skip
    shape([(boot + 0.06, waist + 0.05), (boot + rear, tall - 0.12), (roof, tall - 0.12),
           (screen - 0.04, waist + 0.05)], mix(GLASS, side.canvas.air.sky[1], 0.18))  # fmt: skip
    door = (boot + rear + roof) / 2
    shape([(door, 0.3), (door, tall - 0.1), (door + 0.014, tall - 0.1), (door + 0.014, 0.3)],
          mix(paint, (0, 0, 0), 0.3))  # fmt: skip
    shape([(0, 0.24), (0, 0.36), (1, 0.36), (1, 0.24)], mix(paint, (0, 0, 0), 0.5))
    places = (0.18, 0.82) if mirrored else (0.82, 0.18)
    wheels(side, [a * length for a in places], 0.34, label)


def wheels(side: Plane, places: list[float], r: float, label: str) -> None:
    """Wheels with hubs at some places along a vehicle."""
    for a in places:
        side.disc(a, r, r, TYRE, label)
        side.disc(a, r, 0.55 * r, (142, 144, 148))


def crossing_car(canvas: Canvas, rng: np.random.Generator, s: float, z: float) -> None:
    """A car that crosses the street, seen from its side."""
    kind, tall = pick(rng, ("hatch", "saloon", "estate")), between(rng, 1.42, 1.58)
    paint = jitter(rng, pick(rng, PAINT))
    car_side(canvas.plane(s - 2.1, z), kind, paint, tall, 4.3, rng.random() < 0.5, "car")


def truck(
    canvas: Canvas, rng: np.random.Generator, s: float, z: float, coming: bool = False
) -> None:
    """A lorry: a coloured cab and, higher and wider than it, a plain box for the cargo."""
    cab, box = jitter(rng, pick(rng, (RED, BLUE, WHITE, YELLOW, (40, 110, 80)))), pick(rng, CARGO)
    width, length, tall = 2.4, between(rng, 6.5, 9), between(rng, 3.0, 3.5)
    half = width / 2
    end, side = cuboid(canvas, s, z, width, length)
    if side:
        truck_side(side, cab, box, tall, length, coming)
    for a in (-half + 0.06, half - 0.5):
        end.rect(a, 0, a + 0.44, 0.9, TYRE, "truck")
    if coming:
        cargo = canvas.plane(s, z + 2.0)
        cargo.rect(-half, 0.9, half, tall, mix(box, (0, 0, 0), 0.1), "truck")
        truck_cab(end, half * 0.95, cab)
        return
    end.rect(-half, 0.9, half, tall, box, "truck")
    end.rect(-half, 0.55, half, 0.9, (44, 44, 48), "truck")
    end.rect(-0.04, 1.0, 0.04, tall - 0.1, mix(box, (0, 0, 0), 0.4))
    for edge in (0.9, tall - 0.1):
        end.rect(-half, edge, half, edge + 0.1, mix(box, (0, 0, 0), 0.3))
    for a in (-0.55, 0.48):
        end.rect(a, 1.0, a + 0.06, tall - 0.1, mix(box, (0, 0, 0), 0.25))
    for a in (-half + 0.05, half - 0.4):
        end.rect(a, 0.66, a + 0.35, 0.84, (208, 26, 30))


def truck_cab(end: Plane, half: float, cab: Colour) -> None:
    """The front of a cab: windscreen, grille, lamps, mirrors."""
    end.rect(-half, 0.45, half, 2.7, cab, "truck")
    end.rect(-half * 0.9, 1.55, half * 0.9, 2.4, mix(GLASS, end.canvas.air.sky[1], 0.3))
    end.rect(-half * 0.6, 0.85, half * 0.6, 1.35, mix(cab, (0, 0, 0), 0.6))
    end.rect(-half, 0.4, half, 0.7, (50, 50, 54), "truck")
    for side in (-1, 1):
        end.disc(side * half * 0.78, 0.72, 0.14, (250, 246, 224))
        end.rect(side * half * 1.1 - 0.09, 1.6, side * half * 1.1 + 0.09, 2.2, TYRE, "truck")


def truck_side(
    side: Plane, cab: Colour, box: Colour, tall: float, length: float, coming: bool
) -> None:
    """The side of a lorry, its cab at the far end, or at a = 0 if it comes."""
    back, front = (2.0, length) if coming else (0.0, length - 2.0)
    nose = 0.0 if coming else length - 2.0
    side.rect(0, 0.5, length, 0.95, (46, 46, 50), "truck")
    side.rect(nose, 0.5, nose + 2.0, 2.6, cab, "truck")
    side.rect(nose + 0.5, 1.6, nose + 1.5, 2.3, GLASS)
    side.rect(back, 0.9, front, tall, mix(box, (0, 0, 0), 0.05), "truck")
    for share in (0.25, 0.5, 0.75):
        a = back + share * (front - back)
        side.rect(a, 1.0, a + 0.08, tall - 0.08, mix(box, (0, 0, 0), 0.18))
    side.rect(back, 1.5, front, 1.8, mix(cab, box, 0.3))
    wheels(side, [1.1, length - 1.2, length * 0.6], 0.48, "truck")


def bus(
    canvas: Canvas, rng: np.random.Generator, s: float, z: float, livery: Colour,
    coming: bool = False,
) -> None:  # fmt: skip
    """A city bus: one colour, a band of windows all along, a lit destination in front."""
    livery, width, length, tall = jitter(rng, livery, 0.1), 2.5, 11.5, 3.05
    half, glass = width / 2, mix(GLASS, canvas.air.sky[1], 0.22)
    end, side = cuboid(canvas, s, z, width, length)
    if side:
        side.rect(0, 0.3, length, tall, livery, "bus")
        side.rect(0.3, 1.25, length - 0.2, 2.45, glass)
        for a in np.linspace(0.3, length - 0.2, 8):
            side.rect(a, 1.25, a + 0.12, 2.45, mix(livery, TYRE, 0.5))
        side.rect(0, 0.3, length, 0.55, mix(livery, (0, 0, 0), 0.55))
        wheels(side, [2.4, length - 2.6], 0.48, "bus")
    for a in (-half + 0.08, half - 0.42):
        end.rect(a, 0, a + 0.34, 0.5, TYRE, "bus")
    end.poly([(-half, 0.3), (half, 0.3), (half, tall - 0.2), (half - 0.2, tall),
              (-half + 0.2, tall), (-half, tall - 0.2)], livery, "bus")  # fmt: skip
    end.rect(-half * 0.9, 1.15 if coming else 1.6, half * 0.9, 2.4, glass)
    end.rect(-half, 0.3, half, 0.55, mix(livery, (0, 0, 0), 0.5))
    if coming:
        end.rect(-half * 0.7, 2.5, half * 0.7, 2.82, (26, 24, 24))
        end.rect(-half * 0.55, 2.58, half * 0.45, 2.74, (255, 178, 40))
    else:
        end.rect(-half * 0.3, 2.5, half * 0.3, 2.75, (255, 178, 40))
        end.rect(-half * 0.6, 0.75, half * 0.6, 1.3, mix(livery, (0, 0, 0), 0.35))
    for a in (-half + 0.08, half - 0.38):
        end.rect(a, 0.65, a + 0.3, 0.95, (250, 246, 224) if coming else (208, 24, 30))


def tram(canvas: Canvas, rng: np.random.Generator, s: float, z: float, livery: Colour) -> None:
    """A tram, the class train: long, two-coloured, rounded front, a pantograph, no tyres."""
    lower, upper = jitter(rng, livery, 0.1), (232, 230, 220)
    width, tall, car_long = 2.4, 3.3, 11.0
    half, glass = width / 2, mix(GLASS, canvas.air.sky[1], 0.15)
    for first in (2 * car_long + 1.0, car_long + 0.5, 0.0):
        _, side = cuboid(canvas, s, z + first, width, car_long)
        if side:
            tram_side(side, lower, upper, glass, tall, car_long)
    end = canvas.plane(s, z)
    canvas.plane(s, z + 0.9).rect(-half, 0.3, half, tall, mix(upper, (0, 0, 0), 0.1), "train")
    end.bar((-0.5, tall), (0.0, tall + 0.6), 0.08, TYRE, "train", 0.8)
    end.bar((0.0, tall + 0.6), (0.5, tall), 0.08, TYRE, "train", 0.8)
    end.bar((-0.6, tall + 0.62), (0.6, tall + 0.62), 0.08, TYRE, "train", 0.8)
    end.rect(-half * 0.8, 0.08, half * 0.8, 0.4, (40, 40, 44), "train")
    front = [(-half, 0.3), (half, 0.3), (half, 2.3), (half * 0.8, tall - 0.15), (half * 0.5, tall),
             (-half * 0.5, tall), (-half * 0.8, tall - 0.15), (-half, 2.3)]  # fmt: skip
    end.poly(front, upper, "train")
    end.rect(-half, 0.3, half, 1.35, lower)
    end.poly([(-half * 0.86, 1.45), (half * 0.86, 1.45), (half * 0.7, 2.65), (-half * 0.7, 2.65)],
             glass)  # fmt: skip
    end.rect(-half * 0.45, 2.75, half * 0.45, 3.05, (255, 186, 60))
    end.disc(0, 0.95, 0.17, (255, 250, 222))
    for a in (-half * 0.7, half * 0.7):
        end.disc(a, 0.75, 0.13, (255, 246, 214))


def tram_side(
    side: Plane, lower: Colour, upper: Colour, glass: Colour, tall: float, length: float
) -> None:
    """One car of a tram with its windows, and the dark joint behind it."""
    side.rect(length, 0.4, length + 0.5, tall - 0.3, (40, 40, 44), "train")
    side.rect(0, 0.3, length, tall, upper, "train")
    side.rect(0, 0.3, length, 1.35, lower)
    side.rect(0.3, 1.5, length - 0.3, 2.55, glass)
    for a in np.linspace(0.3, length - 0.5, 6):
        side.rect(a, 1.35, a + 0.2, 2.6, upper)
    side.rect(0.5, 0.1, length - 0.5, 0.4, (40, 40, 44), "train")


def lamp_post(canvas: Canvas, rng: np.random.Generator, s: float, z: float, paint: Colour) -> None:
    """A street lamp whose arm reaches over the road."""
    sheet, tall = canvas.plane(s, z), between(rng, 6.5, 8.5)
    reach = -math.copysign(between(rng, 1.0, 1.8), s)
    sheet.bar((0, 0), (0, tall), 0.17, paint, "pole", 1.35)
    sheet.bar((0, 0), (0, 1.1), 0.26, mix(paint, (0, 0, 0), 0.2), "pole", 1.6)
    sheet.bar((0, tall), (reach, tall + 0.35), 0.11, paint, "pole", 1.1)
    sheet.bar((reach * 0.75, tall + 0.3), (reach * 1.2, tall + 0.36), 0.2, (220, 220, 210), "pole")


def bollard(canvas: Canvas, rng: np.random.Generator, s: float, z: float, paint: Colour) -> None:
    """A knee-high post at the kerb, with a white ring."""
    sheet = canvas.plane(s, z)
    sheet.bar((0, 0), (0, 1.0), 0.16, paint, "pole", 1.3)
    sheet.bar((0, 0.8), (0, 0.9), 0.17, WHITE)


def traffic_light(
    canvas: Canvas, rng: np.random.Generator, s: float, z: float, paint: Colour, lit: int
) -> None:
    """Signals on a pole, sometimes one more over the road; `lit` is 0 red, 1 amber, 2 green."""
    sheet, arm = canvas.plane(s, z), rng.random() < 0.45
    tall = 5.4 if arm else 3.6
    sheet.bar((0, 0), (0, tall), 0.16, paint, "pole", 1.35)
    signal(sheet, 0.0 if not arm else 0.1, 2.5, lit)
    if arm:
        reach = -math.copysign(between(rng, 2.2, 3.4), s)
        sheet.bar((0, tall - 0.1), (reach, tall + 0.1), 0.13, paint, "pole", 1.1)
        signal(sheet, reach, tall - 0.75, lit)


def signal(sheet: Plane, a: float, v: float, lit: int) -> None:
    """Three lamps in a dark housing with a pale rim, bottom edge at height v."""
    sheet.rect(a - 0.28, v - 0.05, a + 0.28, v + 1.2, (214, 214, 206), "traffic light")
    sheet.rect(a - 0.23, v, a + 0.23, v + 1.15, (26, 28, 28))
    lamps = ((255, 52, 40), (255, 190, 40), (50, 236, 120))
    for k, lamp in enumerate(lamps):
        colour = lamp if k == lit else mix(lamp, (18, 18, 18), 0.84)
        sheet.disc(a, v + 0.95 - 0.37 * k, 0.17 if k == lit else 0.14, colour)


def sign_post(canvas: Canvas, rng: np.random.Generator, s: float, z: float, paint: Colour) -> None:
    """One or two signs on a pole."""
    sheet, tall = canvas.plane(s, z), between(rng, 2.9, 3.4)
    sheet.bar((0, 0), (0, tall), 0.1, paint, "pole", 1.25)
    pick(rng, SIGNS)(sheet, rng, tall - 0.15)
    if rng.random() < 0.35:
        pick(rng, SIGNS[:4])(sheet, rng, tall - 1.1)


def prohibition(sheet: Plane, rng: np.random.Generator, v: float) -> None:
    """A red ring around white, sometimes with a dark figure; or red with a white bar."""
    no_entry = rng.random() < 0.35
    sheet.disc(0, v, 0.42, RED, "traffic sign")
    if no_entry:
        sheet.rect(-0.3, v - 0.08, 0.3, v + 0.08, WHITE)
        return
    sheet.disc(0, v, 0.29, WHITE)
    for a in (-0.13, 0.05):
        sheet.rect(a, v - 0.14, a + 0.09, v + 0.14, (30, 30, 34))


def command(sheet: Plane, rng: np.random.Generator, v: float) -> None:
    """A blue disc with a white arrow."""
    sheet.disc(0, v, 0.42, WHITE, "traffic sign")
    sheet.disc(0, v, 0.38, BLUE)
    sheet.bar((-0.18, v - 0.18), (0.14, v + 0.14), 0.11, WHITE)
    sheet.poly([(0.22, v + 0.22), (-0.04, v + 0.2), (0.2, v - 0.04)], WHITE)


def warning(sheet: Plane, rng: np.random.Generator, v: float) -> None:
    """A white triangle with a red rim, standing on its base or on its point."""
    up = 1 if rng.random() < 0.6 else -1
    for size, colour, label in ((0.52, RED, "traffic sign"), (0.3, WHITE, "")):
        points = [
            (-size, v - up * size * 0.58),
            (size, v - up * size * 0.58),
            (0, v + up * size * 1.16),
        ]
        sheet.poly(points, colour, label)


def priority(sheet: Plane, rng: np.random.Generator, v: float) -> None:
    """A yellow diamond in a white rim."""
    for size, colour, label in ((0.5, WHITE, "traffic sign"), (0.38, YELLOW, "")):
        sheet.poly([(-size, v), (0, v + size), (size, v), (0, v - size)], colour, label)


def notice(sheet: Plane, rng: np.random.Generator, v: float) -> None:
    """A blue square: parking, or a crossing."""
    sheet.rect(-0.42, v - 0.42, 0.42, v + 0.42, WHITE, "traffic sign")
    sheet.rect(-0.38, v - 0.38, 0.38, v + 0.38, BLUE)
    if rng.random() < 0.5:
        sheet.poly([(-0.28, v - 0.26), (0.28, v - 0.26), (0, v + 0.28)], WHITE)
    else:
        sheet.bar((-0.12, v - 0.28), (-0.12, v + 0.28), 0.12, WHITE)
        sheet.disc(0.04, v + 0.12, 0.17, WHITE)
        sheet.disc(0.04, v + 0.12, 0.07, BLUE)


def direction(sheet: Plane, rng: np.random.Generator, v: float) -> None:
    """A board with the way to somewhere, two lines of writing."""
    ground, ink = pick(rng, ((YELLOW, (30, 30, 30)), (BLUE, WHITE), (WHITE, (40, 40, 44))))
    sheet.rect(-0.85, v - 0.4, 0.85, v + 0.35, mix(ink, ground, 0.3), "traffic sign")
    sheet.rect(-0.81, v - 0.36, 0.81, v + 0.31, ground)
    for line in (v - 0.2, v + 0.08):
        sheet.rect(-0.6, line, between(rng, 0.1, 0.6), line + 0.1, ink)


SIGNS = (prohibition, command, warning, priority, notice, direction)


def bench(canvas: Canvas, rng: np.random.Generator, s: float, z: float) -> None:
    """A park bench; void (static)."""
    sheet, wood = canvas.plane(s, z, pick(rng, (0.0, 0.5, -0.5))), jitter(rng, (128, 88, 56), 0.2)
    for a in (-0.7, 0.6):
        sheet.rect(a, 0, a + 0.1, 0.45, (52, 52, 56), "static")
    for v in (0.4, 0.58, 0.74):
        sheet.rect(-0.85, v, 0.85, v + 0.13, wood, "static")


def bin_or_box(canvas: Canvas, rng: np.random.Generator, s: float, z: float) -> None:
    """A litter bin, a wheeled bin or a cable box; void (static)."""
    sheet = canvas.plane(s, z)
    paint = jitter(rng, pick(rng, ((72, 84, 72), (60, 64, 70), (150, 110, 60), (176, 176, 168))))
    half, tall = between(rng, 0.22, 0.5), between(rng, 0.9, 1.35)
    sheet.rect(-half, 0, half, tall, paint, "static")
    sheet.rect(half * 0.3, 0, half, tall, mix(paint, (0, 0, 0), 0.2))
    sheet.rect(-half * 1.1, tall, half * 1.1, tall + 0.1, mix(paint, (0, 0, 0), 0.4), "static")


def tree(
    canvas: Canvas, rng: np.random.Generator, s: float, z: float, shape: str, leaf: Colour,
    tall: float,
) -> None:  # fmt: skip
    """A tree: a trunk and a crown of leaf clumps, darker below, lit from the sun's side."""
    sheet, leaf = canvas.plane(s, z), jitter(rng, leaf, 0.16)
    turn, far, size = rng.random((3, 44), dtype=np.float32)
    trunk = jitter(rng, (84, 68, 54), 0.2)
    base = {"round": 0.3, "tall": 0.16, "cone": 0.1}[shape] * tall
    wide = {"round": 0.34, "tall": 0.15, "cone": 0.22}[shape] * tall
    if abs(sheet.at(0, 0)[0] - canvas.centre) - wide * 1.6 * sheet.metre() > canvas.width / 2:
        return
    sheet.bar((0, 0), (0, base + 0.2 * tall), 0.035 * tall, trunk, "vegetation", 1.2)
    middle, high = (base + tall) / 2, (tall - base) / 2
    if shape != "round":
        sheet.poly([(-wide * 0.6, base + 0.12 * tall), (wide * 0.6, base + 0.12 * tall), (0, tall)],
                   mix(leaf, (0, 0, 0), 0.3), "vegetation")  # fmt: skip
    else:
        sheet.disc(0, middle, 0.62 * wide, mix(leaf, (0, 0, 0), 0.3), "vegetation")
    clump = np.arange(44) < 16  # then touches of light, which add no outline
    if z > 40:
        turn, far, size, clump = turn[::2], far[::2], size[::2] * 1.2, clump[::2]
    a = np.cos(2 * np.pi * turn) * np.sqrt(far) * np.where(clump, 0.72, 0.66)
    v = np.sin(2 * np.pi * turn) * np.sqrt(far) * np.where(clump, 0.72, 0.66)
    taper = (1 - v) * 0.6 if shape == "cone" else np.ones_like(v)
    sun = a * canvas.air.sun_side * canvas.air.sunny
    light = 0.8 + 0.3 * v + 0.14 * sun + np.where(clump, 0, 0.3 * size - 0.02)
    fat = 1.0 if shape == "round" else 1.3
    r = wide * np.where(clump, (0.3 + 0.18 * size) * fat * (0.5 + taper / 2), 0.05 + 0.06 * size)
    leaves(sheet, leaf, a * wide * taper, middle + v * high, r, light, clump)


def leaves(
    sheet: Plane, leaf: Colour, a: np.ndarray, v: np.ndarray, r: np.ndarray, light: np.ndarray,
    clump: np.ndarray,
) -> None:  # fmt: skip
    """Discs of leaves, lowest first; only clumps are labelled. Metres, all of one shape (N,)"""
    canvas, scale, (x, y) = sheet.canvas, sheet.metre(), sheet.at(0, 0)
    order = np.lexsort((v, ~clump))
    x, y, r = x + a[order] * scale, y - v[order] * scale, r[order] * scale
    near, far = np.array(canvas.tone(leaf, sheet.z)), np.array(canvas.tone((0, 0, 0), sheet.z))
    tones = (far + (near - far) * light[order, None]).clip(0, 255).astype(int).tolist()
    boxes = np.stack([x - r, y - r, x + r, y + r], axis=1).tolist()
    for box, tone, outline in zip(boxes, tones, clump[order].tolist(), strict=True):
        canvas.brush.ellipse(box, tuple(tone))
        if outline:
            canvas.marker.ellipse(box, ID["vegetation"])


def hedge(
    canvas: Canvas, rng: np.random.Generator, s: float, z: float, length: float, colour: Colour,
    tall: float,
) -> None:  # fmt: skip
    """A clipped hedge along the street, with a bumpy top."""
    sheet, leaf = canvas.along(s, z, length), jitter(rng, colour, 0.1)
    bumps = rng.random(7)
    top = [(length * k / 6, tall * (0.9 + 0.14 * bumps[k])) for k in range(7)]
    sheet.poly([(0, 0), *top, (length, 0)], mix(leaf, (0, 0, 0), 0.18), "vegetation")
    sheet.poly([(a, v - 0.28 * tall) for a, v in top] + top[::-1], mix(leaf, WHITE, 0.06))
    sheet.rect(0, 0, length, 0.12, mix(leaf, (0, 0, 0), 0.5))


def wall(
    canvas: Canvas, rng: np.random.Generator, s: float, z: float, length: float, colour: Colour,
    tall: float,
) -> None:  # fmt: skip
    """A solid wall along the street: courses of stone and a coping."""
    sheet, stone = canvas.along(s, z, length), jitter(rng, colour, 0.03)
    sheet.rect(0, 0, length, tall, stone, "wall")
    joint, starts = mix(stone, (0, 0, 0), 0.22), rng.random(8)
    courses = max(2, int(tall / 0.4))
    for k in range(1, courses):
        v = tall * k / courses
        sheet.rect(0, v - 0.02, length, v + 0.02, joint)
        a = starts[k % 8] * length
        sheet.rect(a, v - tall / courses, a + 0.05, v, joint)
    sheet.rect(0, tall - 0.16, length, tall, mix(stone, WHITE, 0.3))
    sheet.rect(0, tall - 0.2, length, tall - 0.16, mix(stone, (0, 0, 0), 0.35))


def fence(
    canvas: Canvas, rng: np.random.Generator, s: float, z: float, length: float, colour: Colour,
    tall: float,
) -> None:  # fmt: skip
    """A fence along the street: posts, two rails, and bars one can see through; labelled whole."""
    sheet = canvas.along(s, z, length)
    corners = [sheet.at(0, 0), sheet.at(length, 0), sheet.at(length, tall), sheet.at(0, tall)]
    canvas.marker.polygon(corners, ID["fence"])
    for v in (0.12 * tall, 0.9 * tall):
        sheet.bar((0, v), (length, v), 0.07, colour, "", 0.5)
    bars = max(2, round(length / 0.28))
    for k in range(bars):
        a = (k + 0.5) * length / bars
        sheet.rect(a - 0.025, 0.04, a + 0.025, tall, colour)
    for a in (0.0, length):
        sheet.rect(a - 0.05, 0, a + 0.05, tall * 1.06, mix(colour, (0, 0, 0), 0.2), "fence")


@dataclass(frozen=True)
class House:
    """One house of a row: where it stands (metres), and what it looks like."""

    s: float
    z: float
    length: float
    floors: int
    plaster: Colour
    roof: Colour
    pitch: float  # m the ridge stands above the eaves; 0 is a flat roof
    window: tuple[float, float, float]  # width, height, and from one to the next, m
    kind: str  # "plain", "shop", "timber", "glass"
    end_wall: bool  # the wall that looks at us is free

    @property
    def height(self) -> float:
        """Metres to the eaves."""
        return 3.1 * self.floors + 0.9


def house(canvas: Canvas, rng: np.random.Generator, it: House) -> None:
    """A house: its front along the street, its end wall if we see it, its roof."""
    out = math.copysign(1.0, it.s)
    sheet = canvas.along(it.s, it.z, it.length)
    if it.end_wall:
        end = canvas.plane(it.s, it.z, 0.0, 0.9)
        deep = 11 * out
        gable = [(deep / 2, it.height + it.pitch)] if it.pitch else []
        end.poly([(0, 0), (0, it.height), *gable, (deep, it.height), (deep, 0)],
                 mix(it.plaster, (0, 0, 0), 0.06), "building")  # fmt: skip
        windows(end, rng, it, deep, sparse=True)
    if it.pitch:
        ridge = canvas.along(it.s + 5.5 * out, it.z, it.length)
        top = it.height + it.pitch
        pixels = [sheet.at(0, it.height), sheet.at(it.length, it.height),
                  ridge.at(it.length, top), ridge.at(0, top)]  # fmt: skip
        sheet.fill(pixels, it.roof, "building", it.length / 2)
    sheet.rect(0, 0, it.length, it.height, it.plaster, "building")
    windows(sheet, rng, it, it.length)
    sheet.rect(0, it.height - 0.35, it.length, it.height, mix(it.plaster, WHITE, 0.25))
    sheet.rect(0, it.height - 0.5, it.length, it.height - 0.35, mix(it.plaster, (0, 0, 0), 0.3))
    sheet.rect(0, 0, it.length, 0.5, mix(it.plaster, (0, 0, 0), 0.3))
    if it.kind == "timber":
        beams(sheet, it)
    ground_floor(sheet, rng, it)


def windows(
    sheet: Plane, rng: np.random.Generator, it: House, length: float, sparse: bool = False
) -> None:
    """Rows of windows with pale frames: some mirror the sky, some are lit, some have blinds."""
    wide, high, step = it.window
    columns = max(1, int(abs(length) / step) - (1 if sparse else 0))
    moods = rng.random((it.floors, columns))
    sky, frame = sheet.canvas.air.sky[1], mix(it.plaster, WHITE, 0.55)
    for k in range(columns):
        a = (k + 0.5) * length / columns
        (x0, foot), (x1, _) = sheet.at(a - wide / 2, 0), sheet.at(a + wide / 2, 0)
        scale, across = sheet.metre(a), abs(x1 - x0)
        if max(x0, x1) < 0 or min(x0, x1) > sheet.canvas.width or across < 1 or scale * high < 2:
            continue
        for floor in range(0 if sparse else 1, it.floors):
            mood, v = moods[floor, k], 3.1 * floor + 1.0
            if foot - scale * v < 0:
                break  # above the picture
            if across > 5:
                sheet.rect(
                    a - wide / 2 - 0.12, v - 0.12, a + wide / 2 + 0.12, v + high + 0.12, frame
                )
            lit, blind = (250, 214, 140), (206, 204, 196)
            glass = mix(GLASS, sky, 0.12 + 0.3 * mood)
            glass = glass if mood < 0.8 else lit if mood > 0.94 else blind
            sheet.rect(a - wide / 2, v, a + wide / 2, v + high, glass)
            if across > 8 and it.kind != "glass":
                sheet.rect(a - 0.04, v, a + 0.04, v + high, frame)


def ground_floor(sheet: Plane, rng: np.random.Generator, it: House) -> None:
    """A shop with an awning, or a door between windows."""
    awning, door = jitter(rng, pick(rng, CLOTHES)), jitter(rng, pick(rng, PAINT[5:]))
    place = between(rng, 0.2, 0.7) * it.length
    glass = mix(GLASS, sheet.canvas.air.sky[1], 0.2)
    if it.kind in ("shop", "glass"):
        sheet.rect(0.5, 0.4, it.length - 0.5, 2.6, mix(glass, (255, 220, 160), 0.25))
        panes = max(2, int(it.length / 2.2))
        for k in range(1, panes):
            a = 0.5 + k * (it.length - 1) / panes
            sheet.rect(a - 0.07, 0.4, a + 0.07, 2.6, mix(it.plaster, (0, 0, 0), 0.35))
        sheet.rect(0.3, 2.6, it.length - 0.3, 3.2, awning)
        sheet.rect(0.3, 2.5, it.length - 0.3, 2.64, mix(awning, (0, 0, 0), 0.45))
        return
    for k in range(max(1, int(it.length / it.window[2]))):
        a = (k + 0.5) * it.window[2]
        if abs(a - place) > 1.2 and a + 0.6 < it.length:
            sheet.rect(a - 0.5, 1.1, a + 0.5, 2.4, glass)
    sheet.rect(place - 0.6, 0, place + 0.6, 2.3, mix(it.plaster, WHITE, 0.4))
    sheet.rect(place - 0.5, 0, place + 0.5, 2.2, door)


def beams(sheet: Plane, it: House) -> None:
    """The dark beams of a half-timbered front."""
    wood = (88, 62, 46)
    for floor in range(1, it.floors + 1):
        sheet.rect(0, 3.1 * floor - 0.1, it.length, 3.1 * floor + 0.12, wood)
    posts = max(2, int(it.length / 2.6))
    for k in range(posts + 1):
        a = k * it.length / posts
        sheet.rect(a - 0.09, 3.1, a + 0.09, it.height - 0.4, wood)
        if k < posts and k % 2 == 0 and it.floors > 1:
            sheet.bar((a, 3.2), (a + it.length / posts, 6.1), 0.14, wood)
