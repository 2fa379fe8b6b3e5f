"""One scene: sky, ground, things and light, drawn and graded."""

import math
import zlib

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from cilkit.toyscapes import objects
from cilkit.toyscapes.canvas import (
    FINER,
    ID,
    NEAR,
    Air,
    Canvas,
    Colour,
    Plane,
    View,
    between,
    jitter,
    mix,
    pick,
)
from cilkit.toyscapes.street import (
    TYPICAL,
    VERSION,
    City,
    Street,
    Thing,
    buildings,
    city_style,
    edges,
    furniture,
    plan_street,
    traffic,
    trees,
    turns,
    walkers,
    weather_air,
)

GRADING = 0.6  # how far `grade` pulls; 0 leaves colours free, and thousands of steps to learn from


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
        seen = [canvas.project(canvas.view.x(s, z), 0, max(z, NEAR)) for s, z in corners]
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
        sheet = Plane(canvas, x, z, 1.0, 0.0, 0.9)
        if rng.random() < 0.55:
            front = pick(rng, city.houses)
            sheet.rect(0, -1, wide, tall, front, "building")
            for v in np.arange(3, tall - 2, 3.2):
                sheet.rect(0.8, v, wide - 0.8, v + 1.4, mix(front, objects.GLASS, 0.45))
        else:
            for k in range(4):
                r = between(rng, 3.5, 6)
                sheet.disc(wide * k / 3, r * 0.8, r, jitter(rng, city.leaf), "vegetation")
        x += wide * 0.9


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
