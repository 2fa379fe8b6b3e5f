import numpy as np
import pytest
from conftest import first_image, first_label
from PIL import ExifTags, Image

from cilkit.data.image_files import ids_in, read_image, read_label_ids, read_size
from cilkit.data.scenes import open_data
from cilkit.splits import load_split


def test_palette_images_hold_their_indices(folder):
    label = first_label(folder)
    before = open_data(folder).stage("T1")[0][1]
    picture = Image.open(label).convert("L")
    picture.putpalette([k // 3 for k in range(768)])  # now mode P, the same numbers
    assert picture.mode == "P"
    picture.save(label)
    assert open_data(folder).stage("T1")[0][1].equal(before)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((32, 64, 3), dtype=np.uint8), "has mode RGB; wanted one 8-bit label id"),
        (np.zeros((32, 64, 4), dtype=np.uint8), "has mode RGBA; wanted one 8-bit label id"),
        (np.full((32, 64), 26001, dtype=np.uint16), "has mode I;16"),
        (np.array([[0, 1, 18, 255]], dtype=np.uint8), r"holds ids 0, 1, 18, 255.*trainIds"),
        (np.array([[7, 8, 77]], dtype=np.uint8), "holds ids 77 that split 'cityscapes' does not"),
        (np.arange(30, 60, dtype=np.uint8)[None], "holds ids 34, 35, 36, 37, 38, 39, 40, 41 that"),
    ],
)
def test_labels_that_are_no_label_ids_are_refused(folder, write_png, pixels, message):
    file = write_png(first_label(folder), pixels)
    with pytest.raises(ValueError, match=message) as error:
        read_label_ids(file, load_split())
    assert str(file) in str(error.value)


def test_a_licence_plate_does_not_make_label_ids_look_like_train_ids(folder, write_png):
    ids = np.array([[7, 8, 26, 255]], dtype=np.uint8)
    assert read_label_ids(write_png(first_label(folder), ids), load_split()).tolist() == [
        [7, 8, 26, 255]
    ]


@pytest.mark.parametrize("kind", ["text", "cut"])
def test_a_file_that_is_no_image_is_named(folder, kind):
    image = first_image(folder)
    content = {"text": b"version https://git-lfs", "cut": image.read_bytes()[:-30]}
    image.write_bytes(content[kind])
    with pytest.raises(ValueError, match="cannot be read as an image.*download it again") as error:
        open_data(folder).stage("T1")[0]
    assert str(image) in str(error.value)


def test_cityscapes_ids_are_foreign_to_camvid(camvid_folder, write_png):
    file = sorted((camvid_folder / "testannot").iterdir())[0]
    write_png(file, np.full((32, 64), 26, dtype=np.uint8))
    with pytest.raises(ValueError, match="holds ids 26 that split 'camvid' does not know"):
        open_data(camvid_folder).test_set("T1")[0]


def test_colours_for_labels_are_told_to_be_another_release_of_camvid(camvid_folder, write_png):
    label = sorted((camvid_folder / "trainannot").iterdir())[0]
    write_png(label, np.zeros((32, 64, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="has mode RGB; .*CamVid: its 11-class release, as others"):
        open_data(camvid_folder).stage("T1")[0]


def test_the_ids_in_a_file_are_those_of_its_pixels(folder):
    label = first_label(folder)
    assert ids_in(label) == np.unique(np.array(Image.open(label))).tolist()


# JPEG, and pictures that their EXIF data turn

TURNED = np.arange(24, dtype=np.uint8).reshape(4, 6)  # as one sees it
STORED = {  # by the orientation in the EXIF data, how the pixels lie in the file (EXIF 2.3, 4.6.4)
    1: TURNED,
    2: TURNED[:, ::-1],
    3: TURNED[::-1, ::-1],
    4: TURNED[::-1],
    5: TURNED.T,
    6: TURNED.T[::-1],
    7: TURNED.T[::-1, ::-1],
    8: TURNED.T[:, ::-1],
}


def save(file, pixels, orientation, **how):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, exif=exif, **how)
    return file


@pytest.mark.parametrize("orientation", STORED)
def test_an_image_is_turned_as_its_exif_data_say(tmp_path, orientation):
    grey = STORED[orientation]
    png = save(tmp_path / "image.png", np.stack([grey * 9] * 3, axis=2), orientation)
    assert read_image(png).tolist() == np.stack([TURNED * 9] * 3, axis=2).tolist()
    label = save(tmp_path / "label.png", grey, orientation)
    assert read_label_ids(label, load_split()).tolist() == TURNED.tolist()
    assert read_size(png) == grey.shape


@pytest.mark.parametrize("orientation", STORED)
def test_a_jpeg_is_turned_as_its_exif_data_say(tmp_path, orientation):
    large = STORED[orientation].repeat(8, axis=0).repeat(8, axis=1) * 9
    jpeg = save(tmp_path / "image.jpg", large, orientation, quality=100)
    assert jpeg.read_bytes()[:2] == b"\xff\xd8"
    seen = read_image(jpeg)
    assert seen.shape == (32, 48, 3)
    wanted = TURNED.repeat(8, axis=0).repeat(8, axis=1) * 9
    assert np.abs(seen.astype(int) - wanted[..., None]).max() <= 3


def test_a_png_without_exif_data_gives_the_bytes_that_were_saved(tmp_path, write_png):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    assert read_image(write_png(tmp_path / "image.png", pixels)).tobytes() == pixels.tobytes()


def test_a_jpeg_is_no_label_however_it_comes(tmp_path):
    label = save(tmp_path / "label.JPG", np.full((8, 8), 7, dtype=np.uint8), 1, format="JPEG")
    for read in (ids_in, lambda file: read_label_ids(file, load_split())):
        with pytest.raises(ValueError, match="label .*label.JPG is a JPEG: .* must be exact; save"):
            read(label)
