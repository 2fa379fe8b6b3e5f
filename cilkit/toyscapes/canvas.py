"""Camera, canvas and colours of the drawn streets: everything is placed in metres.

Three coordinates: x to the right, y up from the road, z ahead of the camera. `s` is x counted from
the middle of our lane, which may bend. A painter draws on a `Plane`, a flat sheet standing on the
ground, and every call draws the picture and its labels together."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from cilkit.splits import load_split

Colour = tuple[float, float, float]  # red, green, blue, 0-255
Point = tuple[float, float]
ID = {label_class.name: label_class.label_id for label_class in load_split("cityscapes").classes}
ID |= {"ego vehicle": 1, "rectification border": 2, "out of roi": 3, "static": 4}
ID |= {"ground": 6, "parking": 9}

FINER = 2  # scenes are drawn this many times finer than asked, then averaged
NEAR = 2.5  # m; nothing is drawn nearer to the camera
FOCAL = 2.2  # focal length in picture heights, as in Cityscapes


@dataclass(frozen=True)
class View:
    """Where the camera is and how the street runs away from it."""

    eye: float  # m above the road
    horizon: float  # in picture heights, from the top
    yaw: float  # sideways drift of the street, m for each m
    bend: float  # 1/m

    def x(self, s: float, z: float) -> float:
        """Metres to the right of the optical axis of a point of the street."""
        return s + self.yaw * z + self.bend * z * z


@dataclass(frozen=True)
class Air:
    """What the air does to colours: the light of the sun and sky, and the haze of distance."""

    light: Colour  # factors, about 1
    sunny: float  # 0 overcast to 1 hard sun
    sun_side: int  # -1: the sun stands on the left, and the right row of houses is lit
    haze: Colour
    haze_range: float  # m, at which 63 % of a colour is haze
    sky: tuple[Colour, Colour]  # overhead, at the horizon
    cloud: float  # share of the sky under cloud
    cloud_colour: Colour
    rain: float = 0.0  # 0 dry to 1 wet road and rain


class Canvas:
    """The picture and the labels while they are drawn, both FINER times the size asked for."""

    def __init__(self, size: tuple[int, int], view: View, air: Air):
        self.height, self.width = size[0] * FINER, size[1] * FINER
        self.view, self.air = view, air
        self.unit = self.height / 128  # one pixel of a scene 128 high
        self.focal = FOCAL * self.height
        self.centre, self.horizon = self.width / 2, view.horizon * self.height

    def start(self, picture: np.ndarray, labels: np.ndarray) -> None:
        """Lay the backdrop everything else is drawn on. picture (h, w, 3), labels (h, w) uint8"""
        self.picture, self.labels = Image.fromarray(picture), Image.fromarray(labels)
        self.brush, self.marker = ImageDraw.Draw(self.picture), ImageDraw.Draw(self.labels)

    def project(self, x: float, y: float, z: float) -> Point:
        """Pixel of a point in metres."""
        scale = self.focal / z
        return self.centre + scale * x, self.horizon - scale * (y - self.view.eye)

    def tone(self, colour: Colour, z: float, light: float = 1.0) -> tuple[int, int, int]:
        """A colour as it looks in this light from z metres away."""
        clear = math.exp(-z / self.air.haze_range)
        (r, g, b), (lr, lg, lb), (hr, hg, hb) = colour, self.air.light, self.air.haze
        light, haze = light * clear, 1 - clear
        return (
            min(255, int(r * lr * light + hr * haze)),
            min(255, int(g * lg * light + hg * haze)),
            min(255, int(b * lb * light + hb * haze)),
        )

    def plane(self, s: float, z: float, turn: float = 0.0, light: float = 1.0) -> "Plane":
        """A sheet at (s, z) that faces the camera, or is turned away from it by `turn` radians."""
        return Plane(self, self.view.x(s, z), z, math.cos(turn), math.sin(turn), light)

    def along(self, s: float, z: float, length: float) -> "Plane":
        """A sheet along the street from (s, z) to z + length; lit if it faces the sun."""
        start = self.view.x(s, z)
        slope = (self.view.x(s, z + length) - start) / length
        lit = (1 if s > 0 else -1) != self.air.sun_side
        light = 1 + (0.14 if lit else -0.22) * self.air.sunny - 0.06
        return Plane(self, start, z, slope, 1.0, light)


class Plane:
    """A sheet standing on the ground; a runs along it and v up, both in metres."""

    def __init__(self, canvas: Canvas, x: float, z: float, dx: float, dz: float, light: float):
        self.canvas, self.x, self.z, self.dx, self.dz, self.light = canvas, x, z, dx, dz, light

    def at(self, a: float, v: float) -> Point:
        """Pixel of a point of the sheet."""
        canvas, z = self.canvas, self.z + a * self.dz
        scale = canvas.focal / (z if z > NEAR else NEAR)
        x = self.x + a * self.dx
        return canvas.centre + scale * x, canvas.horizon - scale * (v - canvas.view.eye)

    def metre(self, a: float = 0.0) -> float:
        """Pixels of an upright metre at a."""
        return self.canvas.focal / max(self.z + a * self.dz, NEAR)

    def fill(self, pixels: list[Point], colour: Colour, label: str = "", a: float = 0.0) -> None:
        """Fill a polygon of pixels; without a label the labels stay as they are."""
        z = max(self.z + a * self.dz, NEAR)
        self.canvas.brush.polygon(pixels, self.canvas.tone(colour, z, self.light))
        if label:
            self.canvas.marker.polygon(pixels, ID[label])

    def poly(self, points: list[Point], colour: Colour, label: str = "") -> None:
        """Fill a polygon given in metres."""
        self.fill([self.at(a, v) for a, v in points], colour, label, points[0][0])

    def rect(
        self, a0: float, v0: float, a1: float, v1: float, colour: Colour, label: str = ""
    ) -> None:
        """Fill the upright rectangle between two corners."""
        self.poly([(a0, v0), (a1, v0), (a1, v1), (a0, v1)], colour, label)

    def disc(self, a: float, v: float, r: float, colour: Colour, label: str = "") -> None:
        """Fill a disc of radius r."""
        x, y = self.at(a, v)
        ry = r * self.metre(a)
        rx = max(abs(self.at(a + r, v)[0] - x), 0.15 * ry)
        tone = self.canvas.tone(colour, max(self.z + a * self.dz, NEAR), self.light)
        box = (x - rx, y - ry, x + rx, y + ry)
        self.canvas.brush.ellipse(box, tone)
        if label:
            self.canvas.marker.ellipse(box, ID[label])

    def bar(
        self, start: Point, end: Point, width: float, colour: Colour, label: str = "",
        least: float = 0.0,
    ) -> None:  # fmt: skip
        """A straight bar `width` metres thick, but no thinner than `least` pixels of 128."""
        (x0, y0), (x1, y1) = self.at(*start), self.at(*end)
        half = max(width * self.metre(start[0]), least * self.canvas.unit) / 2
        long = math.hypot(x1 - x0, y1 - y0) or 1.0
        nx, ny = -(y1 - y0) / long * half, (x1 - x0) / long * half
        pixels = [(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)]
        self.fill(pixels, colour, label, start[0])


def pick(rng: np.random.Generator, options: tuple) -> tuple:
    """One of the options, all equally likely."""
    return options[int(rng.random() * len(options))]


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between two bounds."""
    return low + (high - low) * rng.random()


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`share` of the other colour in the one."""
    (r, g, b), (r1, g1, b1) = one, other
    return r + (r1 - r) * share, g + (g1 - g) * share, b + (b1 - b) * share


def jitter(rng: np.random.Generator, colour: Colour, amount: float = 0.08) -> Colour:
    """The colour a little lighter or darker, and a little off in hue."""
    light = 1 + amount * (2 * rng.random() - 1)
    return tuple(c * light * (1 + 0.4 * amount * (2 * rng.random() - 1)) for c in colour)
