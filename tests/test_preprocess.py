"""Preprocessing against numbers computed by hand, files read from disk, and every refusal caused."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from krypton_onnx.errors import KryptonError
from krypton_onnx.pictures import open_picture
from krypton_onnx.preprocess import Preprocess, parse_fill

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]


def ramp(height, width):
    """A picture whose red tells the row, green the column; blue is 200."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([y, x, np.full_like(y, 200)], axis=-1).astype(np.uint8))


def one_pixel(*colour):
    return np.array(colour, np.uint8).reshape(1, 1, -1)


def write(tmp_path, data, name="pre.json"):
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------- picture: resize, crop


def test_without_resize_and_crop_the_picture_is_untouched():
    image = ramp(5, 7)
    np.testing.assert_array_equal(Preprocess().picture(image), np.asarray(image))


@pytest.mark.parametrize(
    ("size", "expected"),
    # (height, width): the longer side is rounded down, 20·7/4 = 35, 20·30/7 = 85.7
    [((4, 7), (20, 35)), ((7, 30), (20, 85)), ((30, 7), (85, 20)), ((9, 9), (20, 20))],
)
def test_resize_to_a_shorter_side_keeps_the_aspect(size, expected):
    assert Preprocess(resize=20).picture(ramp(*size)).shape == (*expected, 3)


def test_resize_to_exact_extents():
    assert Preprocess(resize=(11, 22)).picture(ramp(40, 40)).shape == (11, 22, 3)


@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_resampling_is_pillows(resample):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((4, 5), Image.Resampling[resample.upper()]))
    np.testing.assert_array_equal(Preprocess(resize=(5, 4), resample=resample).picture(image), expected)


def test_the_crop_is_central_and_the_odd_margin_goes_below_and_right():
    cropped = Preprocess(crop=(4, 3)).picture(ramp(9, 10))  # margins 5 and 7: 2 above, 3 to the left
    np.testing.assert_array_equal(cropped[:, 0, 0], [2, 3, 4, 5])
    np.testing.assert_array_equal(cropped[0, :, 1], [3, 4, 5])


def test_the_crop_follows_the_resize():
    cropped = Preprocess(resize=10, crop=(10, 6), resample="nearest").picture(ramp(20, 40))
    assert cropped.shape == (10, 6, 3)
    np.testing.assert_array_equal(cropped[0, :, 1], [15, 17, 19, 21, 23, 25])  # columns 7…12 of 20, each of 2


def test_a_crop_larger_than_the_picture_is_refused():
    with pytest.raises(KryptonError, match="5×9, too small for the crop to 6×6"):
        Preprocess(crop=(6, 6)).picture(ramp(5, 9))
    with pytest.raises(KryptonError, match="too small for the crop to 4×9"):
        Preprocess(resize=4, crop=(4, 9)).picture(ramp(8, 16))


def test_a_very_narrow_picture_is_refused_before_memory_is_taken():
    with pytest.raises(KryptonError, match="1×400 is too narrow"):
        Preprocess(resize=224).picture(ramp(1, 400))


def test_grey_is_pillows_luma():
    picture = Preprocess(channel_order="L").picture(Image.new("RGB", (2, 3), (255, 0, 0)))
    assert picture.shape == (3, 2, 1)
    assert picture.dtype == np.uint8
    assert np.all(picture == 76)  # 0.299 · 255


def test_a_grey_picture_fills_three_channels():
    np.testing.assert_array_equal(Preprocess().picture(Image.new("L", (1, 1), 9)), one_pixel(9, 9, 9))


# -------------------------------------------------------------------------------------------------- tensor


def test_the_tensor_is_pixel_minus_mean_times_scale():
    pre = Preprocess(mean=(10, 20, 30), scale=(1, 0.5, 0.25))
    tensor = pre.tensor(one_pixel(110, 120, 130))
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor, np.float32([100, 50, 25]).reshape(3, 1, 1))


def test_bgr_reverses_the_channels_and_mean_and_scale_are_the_models():
    pre = Preprocess(mean=(1, 2, 3), scale=(1, 10, 100), channel_order="BGR")
    tensor = pre.tensor(one_pixel(101, 102, 104))  # red 101 is the model's last channel
    np.testing.assert_array_equal(tensor.ravel(), [103, 1000, 9800])


def test_one_mean_and_scale_serve_all_channels():
    tensor = Preprocess(mean=(127.5,), scale=(1 / 127.5,)).tensor(one_pixel(0, 255, 51))
    np.testing.assert_array_equal(tensor.ravel(), np.float32([-1, 1, -0.6]))


@pytest.mark.parametrize(("layout", "axes"), [("NCHW", (2, 0, 1)), ("NHWC", (0, 1, 2))])
def test_layouts(layout, axes):
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    tensor = Preprocess(scale=(1,), layout=layout).tensor(picture)
    np.testing.assert_array_equal(tensor, picture.transpose(axes))
    assert tensor.flags.c_contiguous


@given(st.integers(0, 255), st.floats(-300, 300), st.floats(1e-3, 10))
def test_the_tensor_is_rounded_only_once(pixel, mean, scale):
    tensor = Preprocess(mean=(mean,), scale=(scale,), channel_order="L").tensor(one_pixel(pixel))
    assert tensor.item() == np.float32((pixel - mean) * scale)


@pytest.mark.parametrize(
    "picture",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 1), np.uint8), np.zeros((3, 4, 4), np.uint8), np.zeros((4, 4, 3))],
)
def test_a_tensor_of_anything_but_a_picture_is_refused(picture):
    with pytest.raises(KryptonError, match=r"uint8 \[H, W, 3\].*not "):
        Preprocess().tensor(picture)


# ---------------------------------------------------------------------------------------------------- fill


NORMALISED = Preprocess(mean=(100, 110, 120), scale=(0.5, 1, 2))
ANY = one_pixel(0, 0, 0)


@pytest.mark.parametrize(
    ("fill", "pixels"),
    [
        ("black", (0, 0, 0)),
        ("gray", (128, 128, 128)),
        ("grey", (128, 128, 128)),
        ("white", (255, 255, 255)),
        (7, (7, 7, 7)),
        (0.5, (0.5, 0.5, 0.5)),
        ("12.5", (12.5, 12.5, 12.5)),
        ((1, 2, 3), (1, 2, 3)),
        ([1, 2, 3], (1, 2, 3)),
        (np.array([1, 2, 3]), (1, 2, 3)),
        ("1,2,3", (1, 2, 3)),
    ],
)
def test_fills_are_pixels_normalised_like_the_picture(fill, pixels):
    value = NORMALISED.fill(fill, ANY)
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value, (np.array(pixels) - (100, 110, 120)) * (0.5, 1, 2))


def test_a_fill_is_red_green_blue_for_a_bgr_model_too():
    pre = Preprocess(mean=(1, 2, 3), scale=(1,), channel_order="BGR")
    np.testing.assert_array_equal(pre.fill("10,20,30", ANY), [29, 18, 7])


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_a_patch_of_a_pixels_colour_equals_the_pixel(order, colour):
    pre = Preprocess(mean=(100, 110, 120), scale=(0.5, 1, 2), channel_order=order)
    np.testing.assert_array_equal(pre.fill(colour, ANY), pre.tensor(one_pixel(*colour)).ravel())


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_mean_is_the_pictures_mean_colour(order):
    picture = np.concatenate([one_pixel(10, 20, 30), one_pixel(11, 40, 90)])
    value = Preprocess(scale=(1,), channel_order=order).fill("mean", picture)
    np.testing.assert_array_equal(value, [10.5, 30, 60] if order == "RGB" else [60, 30, 10.5])


def test_a_grey_model_gets_the_luma_of_a_colour():
    pre = Preprocess(scale=(1,), channel_order="L")
    assert pre.fill("100,200,50", one_pixel(0)) == pytest.approx([0.299 * 100 + 0.587 * 200 + 0.114 * 50])
    assert pre.fill("white", one_pixel(0)).tolist() == [255]
    assert pre.fill("mean", one_pixel(3)).tolist() == [3]


@pytest.mark.parametrize(
    ("text", "value"), [("128", 128.0), (" 1, 2,3.5 ", (1.0, 2.0, 3.5)), ("Mean", "mean"), ("BLACK", 0.0)]
)
def test_parse_fill(text, value):
    assert parse_fill(text) == value


@pytest.mark.parametrize("text", ["red", "", "1,2", "1,2,3,4", "1;2;3", "1,,3", "1,2,x"])
def test_texts_that_are_no_fill_are_refused(text):
    with pytest.raises(KryptonError, match="is not one of black, gray, grey, white, mean, a number"):
        parse_fill(text)


@pytest.mark.parametrize("fill", ["-1", "256", "nan", "inf", "0,0,256", -0.5, (1, 2), np.zeros((2, 3)), None, "blue"])
def test_fills_out_of_range_are_refused(fill):
    with pytest.raises(KryptonError, match="fill"):
        Preprocess().fill(fill, ANY)


# ------------------------------------------------------------------------------------------- fitting a model


def test_the_default_of_a_square_colour_model():
    pre = Preprocess.for_input([3, 8, 8])
    assert pre == Preprocess(resize=8, crop=(8, 8), mean=(0,), scale=(1 / 255,), channel_order="RGB", layout="NCHW")
    picture = pre.picture(ramp(16, 40))
    assert picture.shape == (8, 8, 3)
    assert pre.tensor(np.full((8, 8, 3), 255, np.uint8)).max() == 1


def test_the_default_of_an_oblong_model_sees_the_whole_picture():
    pre = Preprocess.for_input((6, 9, 3), layout="NHWC")
    tensor = pre.tensor(pre.picture(ramp(30, 30)))
    assert tensor.shape == (6, 9, 3)
    assert pre.size == (6, 9)


def test_the_default_of_a_grey_model():
    pre = Preprocess.for_input([1, 28, 28])
    assert pre.channel_order == "L"
    assert pre.tensor(pre.picture(ramp(50, 40))).shape == (1, 28, 28)


@pytest.mark.parametrize("channels", [2, 4, 32])
def test_no_picture_suits_a_model_of_other_channels(channels):
    with pytest.raises(KryptonError, match=f"has {channels} channels.*pass it to Session.explain"):
        Preprocess.for_input([channels, 8, 8])
    with pytest.raises(KryptonError, match=f"has {channels} channels"):
        Preprocess().check_input([channels, 8, 8])


@pytest.mark.parametrize("shape", [[8, 8], [1, 3, 8, 8], [3, None, 8], [3, "height", 8], [3, 0, 8], [3, -1, 8]])
def test_no_default_without_three_fixed_extents(shape):
    with pytest.raises(KryptonError, match="three fixed extents"):
        Preprocess.for_input(shape)


def test_channels_and_size_must_suit_the_model():
    pre = Preprocess(crop=(8, 10))
    pre.check_input([3, 8, 10])
    pre.check_input(["channels", None, 10])
    Preprocess(resize=5).check_input([3, 224, 224])  # the size follows the picture
    Preprocess(resize=(8, 10), layout="NHWC").check_input([8, 10, 3])
    with pytest.raises(KryptonError, match="use L"):
        pre.check_input([1, 8, 10])
    with pytest.raises(KryptonError, match="use RGB or BGR"):
        Preprocess(channel_order="L").check_input([3, 8, 10])
    with pytest.raises(KryptonError, match=r"gives \[8, 10\].*input is \[10, 8\]"):
        pre.check_input([3, 10, 8])
    with pytest.raises(KryptonError, match=r"has 8 channels in layout NCHW.*correct the layout"):
        pre.check_input([8, 10, 3])
    with pytest.raises(KryptonError, match="three axes"):
        pre.check_input([1, 3, 8, 10])


# ------------------------------------------------------------------------------------------ fields and JSON

EXAMPLES = [
    Preprocess(),
    Preprocess(resize=256, crop=(224, 220), mean=(103.939, 116.779, 123.68), scale=(1,), channel_order="BGR"),
    Preprocess(resize=(3, 4), mean=(0.1,), scale=(1 / 3,), channel_order="L", layout="NHWC", resample="lanczos"),
]


@pytest.mark.parametrize("pre", EXAMPLES)
def test_json_gives_back_an_equal_preprocessing(pre, tmp_path):
    assert Preprocess.from_dict(pre.to_dict()) == pre
    assert json.loads(json.dumps(pre.to_dict())) == pre.to_dict()
    assert Preprocess.from_json(write(tmp_path, pre.to_dict())) == pre
    assert hash(Preprocess.from_dict(pre.to_dict())) == hash(pre)


def test_absent_keys_take_their_defaults(tmp_path):
    assert Preprocess.from_json(write(tmp_path, {"crop": [5, 6]})) == Preprocess(crop=(5, 6))
    assert Preprocess.from_json(write(tmp_path, "\ufeff{}")) == Preprocess()  # with a byte order mark


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resize", 0),
        ("resize", -3),
        ("resize", True),
        ("resize", 2.5),
        ("resize", "224"),
        ("resize", [1, 2, 3]),
        ("resize", [0, 2]),
        ("resize", 10**9),
        ("crop", 224),
        ("crop", [224]),
        ("crop", [True, 224]),
        ("mean", "0"),
        ("mean", [1, 2]),
        ("mean", []),
        ("mean", [1, 2, None]),
        ("mean", [True]),
        ("mean", float("nan")),
        ("mean", 10**400),
        ("scale", [float("inf")]),
        ("scale", [1, 0, 1]),
        ("channel_order", "GBR"),
        ("channel_order", ["RGB"]),
        ("layout", "CHW"),
        ("resample", "box"),
        ("resample", 2),
    ],
)
def test_a_bad_value_is_refused_with_its_key_and_file(key, value, tmp_path):
    path = write(tmp_path, {key: value})
    with pytest.raises(KryptonError) as error:
        Preprocess.from_json(path)
    assert str(path) in str(error.value)
    assert f"'{key}'" in str(error.value)


def test_three_means_do_not_suit_one_channel():
    with pytest.raises(KryptonError, match="'mean' has 3 values: give one"):
        Preprocess(mean=(1, 2, 3), channel_order="L")


@pytest.mark.parametrize(("resize", "crop"), [(10, (11, 11)), ((10, 20), (11, 5)), ((10, 20), (5, 21))])
def test_a_crop_that_no_resized_picture_contains_is_refused(resize, crop):
    with pytest.raises(KryptonError, match="larger than 'resize'"):
        Preprocess(resize=resize, crop=crop)


def test_an_unknown_key_is_refused_with_its_file(tmp_path):
    path = write(tmp_path, {"resize": 224, "means": [0]})
    with pytest.raises(KryptonError, match=r"unknown key 'means'.*mean, scale") as error:
        Preprocess.from_json(path)
    assert str(path) in str(error.value)
    with pytest.raises(KryptonError, match="unknown key 'size'"):  # one own key, so it is no Hugging Face file
        Preprocess.from_json(write(tmp_path, {"mean": [0], "size": 224}))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"mean": 1e', "\x00"])
def test_a_file_that_is_no_json_is_refused(text, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(KryptonError, match="not a JSON file") as error:
        Preprocess.from_json(path)
    assert str(path) in str(error.value)


def test_binary_missing_and_folder_in_place_of_json(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(KryptonError, match=r"binary\.json is not a JSON file"):
        Preprocess.from_json(tmp_path / "binary.json")
    with pytest.raises(KryptonError, match=r"missing\.json .*No such file"):
        Preprocess.from_json(tmp_path / "missing.json")
    with pytest.raises(KryptonError, match="cannot read"):
        Preprocess.from_json(tmp_path)


@pytest.mark.parametrize("data", ["[]", "3", "null", '"mean"'])
def test_json_that_is_no_object_is_refused(data, tmp_path):
    with pytest.raises(KryptonError, match="holds one JSON object"):
        Preprocess.from_json(write(tmp_path, data))


# --------------------------------------------------------------------------------------------- Hugging Face

RESNET = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": IMAGENET_MEAN,
    "image_std": IMAGENET_STD,
    "resample": 3,
    "size": 224,
}
VIT = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 224, "width": 224},
}
MOBILENET = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "MobileNetV2ImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 256},
}


def hugging_face(tmp_path, config, **changes):
    return Preprocess.from_json(write(tmp_path, {**config, **changes}, "preprocessor_config.json"))


def test_resnet_resizes_to_256_and_crops_224(tmp_path):
    pre = hugging_face(tmp_path, RESNET)
    assert (pre.resize, pre.crop, pre.resample) == (256, (224, 224), "bicubic")
    assert (pre.channel_order, pre.layout) == ("RGB", "NCHW")
    tensor = pre.tensor(one_pixel(255, 0, 51)).ravel()
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(tensor, expected, rtol=1e-6)


def test_vit_squeezes_the_picture_to_a_square(tmp_path):
    pre = hugging_face(tmp_path, VIT)
    assert (pre.resize, pre.crop, pre.resample) == ((224, 224), None, "bilinear")
    np.testing.assert_allclose(pre.tensor(one_pixel(0, 255, 51)).ravel(), [-1, 1, -0.6], rtol=1e-6)


def test_the_oldest_vit_files_name_no_processor_and_an_integer_size(tmp_path):
    old = {key: VIT[key] for key in ("do_normalize", "do_resize", "image_mean", "image_std")}
    assert hugging_face(tmp_path, old, size=224) == hugging_face(tmp_path, VIT)


@pytest.mark.parametrize(
    ("size", "crop_pct", "resize", "crop"),
    [
        (224, 0.875, 256, (224, 224)),
        ({"shortest_edge": 224}, 0.95, 235, (224, 224)),  # 224 / 0.95 = 235.8
        ({"shortest_edge": 224}, None, 256, (224, 224)),  # the processor's default is 224/256
        ({"shortest_edge": 384}, 0.875, (384, 384), None),  # from 384 on there is no crop
        (512, 0.875, (512, 512), None),
    ],
)
def test_convnext_sizes(size, crop_pct, resize, crop, tmp_path):
    convnext = {**VIT, "image_processor_type": "ConvNextImageProcessor"}
    pre = hugging_face(tmp_path, convnext, size=size, crop_pct=crop_pct)
    assert (pre.resize, pre.crop) == (resize, crop)


def test_mobilenet_resizes_the_shorter_side_and_crops(tmp_path):
    pre = hugging_face(tmp_path, MOBILENET)
    assert (pre.resize, pre.crop) == (256, (224, 224))
    assert hugging_face(tmp_path, MOBILENET, size=256, crop_size=224) == pre
    assert hugging_face(tmp_path, MOBILENET, do_center_crop=False).crop is None
    assert hugging_face(tmp_path, MOBILENET, do_resize=False).resize is None


def test_an_integer_size_is_a_square_where_the_processor_takes_it_so(tmp_path):
    deit = {**MOBILENET, "image_processor_type": "DeiTImageProcessor", "size": 256}
    assert hugging_face(tmp_path, deit).resize == (256, 256)
    assert hugging_face(tmp_path, deit, default_to_square=False).resize == 256


def test_poolformer_has_no_limit_at_384(tmp_path):
    pool = {**MOBILENET, "image_processor_type": "PoolFormerImageProcessor", "crop_pct": 0.9}
    pre = hugging_face(tmp_path, pool, size={"shortest_edge": 400})
    assert (pre.resize, pre.crop) == (444, (224, 224))


def test_steps_that_are_off(tmp_path):
    raw = hugging_face(tmp_path, VIT, do_rescale=False, do_normalize=False)
    np.testing.assert_array_equal(raw.tensor(one_pixel(0, 255, 51)).ravel(), [0, 255, 51])
    unscaled = hugging_face(tmp_path, VIT, do_rescale=False)
    np.testing.assert_array_equal(unscaled.tensor(one_pixel(0, 255, 51)).ravel(), [-1, 509, 101])
    unit = hugging_face(tmp_path, VIT, do_normalize=False)
    np.testing.assert_allclose(unit.tensor(one_pixel(0, 255, 51)).ravel(), [0, 1, 0.2], rtol=1e-6)
    assert raw.channel_order == unit.channel_order == "RGB"


def test_null_stands_for_absent(tmp_path):
    fast = {"do_center_crop": None, "crop_size": None, "data_format": "channels_first", "do_convert_rgb": None}
    assert hugging_face(tmp_path, VIT, **fast) == hugging_face(tmp_path, VIT)
    size = {"shortest_edge": 256, "longest_edge": None}
    assert hugging_face(tmp_path, MOBILENET, size=size) == hugging_face(tmp_path, MOBILENET)


def test_efficientnet_divides_twice_and_mobilevit_flips_the_channels(tmp_path):
    top = hugging_face(tmp_path, VIT, include_top=True)
    np.testing.assert_allclose(top.tensor(one_pixel(0, 255, 51)).ravel(), [-2, 2, -1.2], rtol=1e-6)
    flipped = hugging_face(tmp_path, VIT, do_flip_channel_order=True, do_normalize=False)
    np.testing.assert_allclose(flipped.tensor(one_pixel(0, 255, 51)).ravel(), [0.2, 1, 0], rtol=1e-6)


def test_one_mean_is_a_grey_model_and_channels_last_is_nhwc(tmp_path):
    grey = hugging_face(tmp_path, VIT, image_mean=[0.5], image_std=[0.5], data_format="channels_last")
    assert (grey.channel_order, grey.layout) == ("L", "NHWC")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, "size"),
        ({"size": {"width": 3}}, "size"),
        ({"size": 0}, "size"),
        ({"size": True}, "size"),
        ({"size": "224"}, "size"),
        ({"size": None}, "size"),
        ({"do_center_crop": True}, "crop_size"),
        ({"do_resize": "yes"}, "do_resize"),
        ({"do_pad": True}, "do_pad"),
        ({"do_thumbnail": True}, "do_thumbnail"),
        ({"rescale_offset": True}, "rescale_offset"),
        ({"size_divisor": 32}, "size_divisor"),
        ({"image_processor_type": "LevitImageProcessor"}, "LevitImageProcessor"),
        ({"resample": 4}, "resample"),
        ({"resample": True}, "resample"),
        ({"resample": [2]}, "resample"),
        ({"image_mean": None}, "image_mean"),
        ({"image_std": None}, "image_std"),
        ({"image_mean": [1, 2]}, "image_mean"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std"),
        ({"image_std": 1e-200, "include_top": True}, "image_std"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"crop_pct": 0.9}, "size"),
        ({"crop_pct": 1.5, "size": 224}, "crop_pct"),
        ({"crop_pct": "0.9", "size": 224}, "crop_pct"),
    ],
)
def test_what_would_not_be_the_models_preprocessing_is_refused(changes, key, tmp_path):
    with pytest.raises(KryptonError) as error:
        hugging_face(tmp_path, VIT, **changes)
    assert f"'{key}'" in str(error.value)
    assert "preprocessor_config.json" in str(error.value)


# ------------------------------------------------------------------------------------------------- pictures


def saved(tmp_path, image, name="picture.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_colour_and_grey_pictures_keep_their_mode(tmp_path):
    image = ramp(4, 6)
    np.testing.assert_array_equal(np.asarray(open_picture(saved(tmp_path, image))), np.asarray(image))
    grey = open_picture(str(saved(tmp_path, image.convert("L"))))
    assert grey.mode == "L"
    np.testing.assert_array_equal(np.asarray(grey), np.asarray(image.convert("L")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation, tmp_path):
    upright = np.asarray(ramp(4, 6))
    # what a camera stores so that the reader's turning or mirroring restores the upright picture
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(np.asarray(open_picture(path)), upright)


def test_transparency_is_laid_on_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (200, 100, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    opened = open_picture(saved(tmp_path, image))
    assert opened.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(opened), [[[200, 100, 0], [255, 255, 255]]])
    half = open_picture(saved(tmp_path, Image.new("LA", (1, 1), (0, 128))))
    np.testing.assert_allclose(np.asarray(half), 127, atol=1)


def test_palettes_with_and_without_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 250, 240, 230])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(np.asarray(open_picture(saved(tmp_path, image))), [[[10, 20, 30], [250, 240, 230]]])
    path = saved(tmp_path, image, transparency=0)
    np.testing.assert_array_equal(np.asarray(open_picture(path)), [[[255, 255, 255], [250, 240, 230]]])


@pytest.mark.parametrize("name", ["deep.png", "deep.tiff", "deep.pgm"])
def test_sixteen_bits_are_rounded_to_eight(name, tmp_path):
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    opened = open_picture(saved(tmp_path, Image.fromarray(deep), name))
    assert opened.mode == "L"
    np.testing.assert_array_equal(np.asarray(opened), [[0, 0, 1, 1, 128, 255]])


@pytest.mark.parametrize(("mode", "colour"), [("CMYK", (0, 255, 255, 0)), ("YCbCr", (76, 85, 255)), ("1", 1)])
def test_other_modes(mode, colour, tmp_path):
    opened = open_picture(saved(tmp_path, Image.new(mode, (8, 8), colour), "picture.tiff"))
    expected = 255 if mode == "1" else (255, 0, 0)
    np.testing.assert_allclose(np.asarray(opened).astype(int), np.broadcast_to(expected, np.shape(opened)), atol=2)


@pytest.mark.parametrize("array", [np.float32([[0.5]]), np.int32([[70000]]), np.int32([[-1]])])
def test_pixels_of_unknown_range_are_refused(array, tmp_path):
    path = saved(tmp_path, Image.fromarray(array), "deep.tiff")
    with pytest.raises(KryptonError, match=r"deep\.tiff: the picture has .*save it with 8 or 16"):
        open_picture(path)


def test_a_missing_picture_and_a_folder_are_refused(tmp_path):
    with pytest.raises(KryptonError, match=r"none\.png \(No such file"):
        open_picture(tmp_path / "none.png")
    with pytest.raises(KryptonError, match=r"cannot read .*Is a directory"):
        open_picture(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture_is_refused(content, tmp_path):
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises(KryptonError, match=r"picture\.png is not a picture"):
        open_picture(tmp_path / "picture.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_a_picture_cut_short_is_refused(kind, tmp_path):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    path = tmp_path / "cut"
    path.write_bytes(buffer.getvalue())
    open_picture(path)
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(KryptonError, match=r"cut is not a picture|cut is damaged, cut short or too large") as error:
        open_picture(path)
    assert str(path) in str(error.value)


def test_a_damaged_picture_is_refused(tmp_path):
    buffer = io.BytesIO()
    ramp(64, 64).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[60] ^= 0xFF  # inside the compressed data
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(KryptonError, match=r"bad\.png is damaged"):
        open_picture(tmp_path / "bad.png")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, ramp(64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(KryptonError, match="too large"):
        open_picture(path)


def test_picture_takes_what_pillow_opens_itself():
    transparent = Image.new("RGBA", (3, 2), (0, 0, 0, 0))
    np.testing.assert_array_equal(Preprocess().picture(transparent), np.full((2, 3, 3), 255))
    np.testing.assert_array_equal(Preprocess(channel_order="L").picture(transparent), np.full((2, 3, 1), 255))
