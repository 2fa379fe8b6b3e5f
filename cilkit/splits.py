"""Split files: the classes, stages and cities of a data set, read from TOML (Table I)."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from random import Random

from cilkit.checks import is_whole, nearest, unknown
from cilkit.classes import RULES, UNLISTED_ID, LabelClass, Split, Stage
from cilkit.files import RESOURCES

SPLITS = RESOURCES / "splits"


FIELDS = (  # of a split file
    *("name", "layout", "rule", "void", "classes", "stages", "train"),
    *("test", "held_back", "images", "parts", "absent", "background", "order", "orders"),
)
WORDS = {"cities": "city", "groups": "group"}  # two words for groups of images: the paper's first
KINDS = {str: "a text", int: "a whole number", list: "a list", dict: "a table"}


def kit_splits() -> list[str]:
    """The names of the splits that come with the kit."""
    return sorted(Path(file.name).stem for file in SPLITS.iterdir())


def load_split(source: str | Path = "cityscapes") -> Split:
    """Read a split: "cityscapes", "voc_15-5", or the path of a file of your own like theirs.

    Every class is new in exactly one stage; a later one may label it `again`. No city is in two
    places, but stages may share one under a rule that reads the labels ("disjoint", "overlapped").
    An `order` deals the classes out anew: stages keep their number of classes. Anything else is a
    ValueError that names the file, what came and what was wanted.
    """
    path = Path(source)
    if path.suffix != ".toml":
        path = SPLITS / f"{source}.toml"
    if not path.is_file():
        known = kit_splits()
        raise FileNotFoundError(
            f"no split file {path}{nearest(source, known)}; use one of: {', '.join(known)}, or the "
            f"path of your own .toml written like {SPLITS}/cityscapes.toml"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}; correct it there") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}); check its permissions") from error
    try:
        return _split(table)
    except ValueError as error:
        raise ValueError(
            f"split file {path}: {error}. {SPLITS}/cityscapes.toml shows the form"
        ) from error


def _split(table: dict) -> Split:
    _only(table, FIELDS, "")
    rule = _entry(table, "rule", str, "") if "rule" in table else "partitioned"
    if rule not in RULES:
        raise ValueError(unknown("rule", rule, list(RULES)))
    entries, train = _entry(table, "stages", list, ""), _part(table, "train")
    stages: list[Stage] = []
    for entry in entries:
        stages.append(_stage(entry, stages, train))
    if not stages:
        raise ValueError("stages is []; wanted at least one [[stages]] entry")
    _all_different("stage", [stage.name for stage in stages], "name each stage once")
    order = [name for entry in entries for name in entry["classes"]]
    void = tuple(_entry(table, "void", list, ""))
    known, first = _entry(table, "classes", dict, ""), stages[0].new
    classes = _classes(known, order, void)
    background = _background(table, order[first])
    order = _in_order(table, order, first, background)
    stages = [_with_again(*pair, order) for pair in zip(stages, entries, strict=True)]
    test, held_back = _part(table, "test", needed=True), _part(table, "held_back")
    cities = [city for stage in stages for city in stage.cities]
    cities = cities if RULES[rule] is None else list(dict.fromkeys(cities))
    word = _word(table["test"])
    home = f"a {word} belongs to one stage, or to test, or is held back"
    _all_different(word, [*cities, *held_back, *test], home)
    return Split(
        name=_entry(table, "name", str, ""),
        layout=_entry(table, "layout", str, ""),
        classes=tuple(sorted(classes, key=lambda label_class: order.index(label_class.name))),
        void=void,
        stages=tuple(stages),
        test_cities=test,
        held_back=held_back,
        images=_images(table),
        parts=_parts(table),
        absent=_some_classes(table, "absent", order, "class"),
        rule=rule,
        background=background,
    )


def _classes(entries: dict, order: list[str], void: tuple[int, ...]) -> tuple[LabelClass, ...]:
    """The classes in the order of the channels; each is in one stage, each id is one class's."""
    for name in order:
        if name not in entries:
            raise ValueError(unknown("class", name, list(entries)))
    _all_different("class", order, "give each class to one stage")
    if homeless := [name for name in entries if name not in order]:
        raise ValueError(
            f"class {', '.join(map(repr, homeless))} is in no stage; add it to the `classes` of a "
            "[[stages]] entry, or list its id under `void`"
        )
    if len(order) > UNLISTED_ID:
        raise ValueError(f"{len(order)} classes; at most {UNLISTED_ID} fit an 8-bit label image")
    classes = tuple(_label_class(name, entries[name]) for name in order)
    ids = [label_class.label_id for label_class in classes] + list(void)
    if bad := [i for i in ids if not _is_byte(i)]:
        raise ValueError(f"id {bad[0]!r} does not fit an 8-bit label image; use 0 to 255")
    _all_different("id", ids, "an id is one class or void")
    return classes


def _in_order(table: dict, order: list[str], first: slice, background: str | None) -> list[str]:
    """The classes as they are learned: as the stages name them, in one of [[orders]], or shuffled.

    The background stays in the first stage; a seed leaves it in its place.
    """
    orders: dict[str, list[str]] = {}
    for entry in _entry(table, "orders", list, "") if "orders" in table else []:
        name = _entry(entry, "name", str, f" of order {len(orders) + 1}")
        _all_different("order", [*orders, name], "name each order once")
        where = f" of order {name!r}"
        _only(entry, ("name", "classes"), where)
        orders[name] = list(_names(entry, "classes", where))
        for class_name in orders[name]:
            if class_name not in order:
                raise ValueError(unknown(f"class{where}", class_name, order))
        _all_different("class", orders[name], f"order {name!r} names each class once")
        if lacking := [class_name for class_name in order if class_name not in orders[name]]:
            raise ValueError(
                f"order {name!r} leaves out {', '.join(map(repr, lacking))}; name every class once"
            )
        if background is not None and background not in orders[name][first]:
            raise ValueError(
                f"order {name!r} puts the background {background!r} after the first stage; "
                f"name it among the first {first.stop}"
            )
    if "order" not in table:
        return order
    chosen = table["order"]
    if isinstance(chosen, str) and chosen in orders:
        return orders[chosen]
    if not is_whole(chosen):
        names = [*orders, "a whole number from 0, the seed of a shuffle"]
        raise ValueError(unknown("order", chosen, names))
    free = [class_name for class_name in order if class_name != background]
    shuffled = iter(Random(chosen).sample(free, len(free)))
    return [name if name == background else next(shuffled) for name in order]


def _entry(table: object, key: str, kind: type, where: str) -> object:
    """An entry that a table of the file must have, of the type that it must have."""
    if not isinstance(table, dict):
        raise ValueError(f"{table!r} stands{where} instead of a table; wanted `{key} = ...` in it")
    if key not in table:
        raise ValueError(f"it lacks {key!r}{where}")
    if type(table[key]) is not kind:  # true is no number
        raise ValueError(f"{key}{where} is {table[key]!r}; wanted {KINDS[kind]}")
    return table[key]


def _only(table: dict, known: tuple[str, ...], where: str) -> None:
    if strange := [key for key in table if key not in known]:
        raise ValueError(unknown(f"entry{where}", strange[0], list(known)))


def _names(table: object, key: str, where: str) -> tuple[str, ...]:
    names = _entry(table, key, list, where)
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"{key}{where} are {names!r}; wanted a list of names")
    return tuple(names)


def _stage(entry: object, before: list[Stage], train: tuple[str, ...]) -> Stage:
    where = f" of stage {len(before) + 1}"
    name = _entry(entry, "name", str, where)
    if not re.fullmatch(r"\w+", name):
        raise ValueError(f"stage {name!r} gives folders their names; use letters, digits and _")
    where = f" of stage {name!r}"
    _only(entry, ("name", "classes", "again", *WORDS), where)
    classes = _names(entry, "classes", where)
    if not classes:
        raise ValueError(f"stage {name!r} has no class; give it at least one")
    cities = train if train and not WORDS.keys() & entry else _groups(entry, where)
    if not cities:
        raise ValueError(f"stage {name!r} has no {_word(entry)}; give it at least one")
    start = before[-1].new.stop if before else 0
    stop = start + len(classes)
    return Stage(name, len(before) + 1, slice(0, start), slice(start, stop), cities)


def _with_again(stage: Stage, entry: dict, order: list[str]) -> Stage:
    """A stage with the classes of earlier ones that it labels again, as channels in order."""
    where = f" of stage {stage.name!r}"
    names = _names(entry, "again", where) if "again" in entry else ()
    _all_different(f"class again{where}", list(names), "name it once")
    for name in names:
        if name not in order[stage.old]:
            what = f"class of an earlier stage under again{where}"
            raise ValueError(unknown(what, name, order[stage.old]))
    return replace(stage, again=tuple(sorted(map(order.index, names))))


def _label_class(name: str, entry: object) -> LabelClass:
    where = f" of {name!r}"
    colour = _entry(entry, "colour", list, where)
    _only(entry, ("id", "colour"), where)
    if len(colour) != 3 or not all(map(_is_byte, colour)):
        raise ValueError(f"colour{where} is {colour}; wanted three numbers 0 to 255")
    if "id" not in entry:
        raise ValueError(f"it lacks 'id'{where}")
    return LabelClass(name, entry["id"], tuple(colour))


def _is_byte(value: object) -> bool:
    return type(value) is int and 0 <= value <= 255


def _part(table: dict, key: str, needed: bool = False) -> tuple[str, ...]:
    """The groups of [test] or [held_back], or of [train]: for all stages that name none."""
    if key not in table and not needed:
        return ()
    entry, where = _entry(table, key, dict, ""), f" of {key}"
    _only(entry, tuple(WORDS), where)
    groups = _groups(entry, where)
    if needed and not groups:
        raise ValueError(f"{key} has no {_word(entry)}; give it at least one")
    return groups


def _groups(entry: dict, where: str) -> tuple[str, ...]:
    """The groups of images that an entry names, by one of two words."""
    if WORDS.keys() <= entry.keys():
        raise ValueError(f"cities and groups{where} are two words for the same; keep one")
    return _names(entry, "groups" if "groups" in entry else "cities", where)


def _word(entry: dict) -> str:
    return WORDS["groups" if "groups" in entry else "cities"]


def _images(table: dict) -> tuple[tuple[str, int], ...]:
    images = _entry(table, "images", dict, "") if "images" in table else {}
    if bad := [city for city, n in images.items() if type(n) is not int or n < 0]:
        raise ValueError(f"images of {bad[0]!r} are {images[bad[0]]!r}; wanted a whole number")
    return tuple(images.items())


def _parts(table: dict) -> int:
    parts = _entry(table, "parts", int, "") if "parts" in table else 1
    if parts < 1:
        raise ValueError(f"parts is {parts}; wanted a whole number from 1")
    return parts


def _some_classes(table: dict, key: str, known: list[str], kind: str) -> tuple[str, ...]:
    names = _names(table, key, "") if key in table else ()
    for name in names:
        if name not in known:
            raise ValueError(unknown(f"{kind} under {key}", name, known))
    return names


def _background(table: dict, first: list[str]) -> str | None:
    if "background" not in table:
        return None
    name = _entry(table, "background", str, "")
    if name not in first:
        raise ValueError(unknown("class of the first stage as background", name, first))
    return name


def _all_different(kind: str, values: list, rule: str) -> None:
    """Whether all differ in more than capital letters, which not every disk tells apart."""
    folded = [str(value).lower() for value in values]
    twice = {value for value, fold in zip(values, folded, strict=True) if folded.count(fold) > 1}
    if twice:
        raise ValueError(f"{kind} {', '.join(map(repr, sorted(twice)))} appears twice; {rule}")
