"""Recipes: strict, and errors that name the line and what is allowed."""

from fractions import Fraction

import pytest

from soundvid.errors import RecipeError
from soundvid.recipe.load import built_in, load

GOOD = """name: mine
sources:
  - folder: videos
clips:
  seconds: 4.0
  plan: random
video:
  fps: 30000/1001
splits:
  ratios: {train: 0.9, val: 0.1}
"""


def write(tmp_path, text: str):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_a_good_recipe_and_its_defaults(tmp_path):
    recipe = load(write(tmp_path, GOOD))
    assert recipe.video.fps == Fraction(30000, 1001)
    assert (recipe.video.width, recipe.sound.rate, recipe.frames) == (286, 44100, 120)
    assert recipe.sources[0].folder == str(tmp_path / "videos")


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("seconds: 4.0", "secnds: 4.0", 5, ["clips.secnds", "did you mean 'seconds'?", "clips_per_second"]),
        ("plan: random", "plan: randm", 6, ["clips.plan", "'random', 'consecutive' or 'spans'", "randm"]),
        ("seconds: 4.0", "max_timing_error: .inf", 5, ["clips.max_timing_error", "finite"]),
        ("fps: 30000/1001", "crop: center", 8, ["video.crop", "did you mean 'centre'?"]),
        ("fps: 30000/1001", "fps: fast", 8, ["video.fps", "30000/1001", "fast"]),
        ("train: 0.9", "trian: 0.9", 10, ["splits.ratios", "'train', 'val' or 'test'"]),
        ("seconds: 4.0", "seconds: -1", 5, ["clips.seconds", "greater than 0"]),
        ("folder: videos", "foldr: videos", 3, ["foldr", "did you mean 'folder'?"]),
        ("name: mine", "name: My Data!", 1, ["name: ", "such as my-data"]),
        ("sources:\n  - folder: videos\n", "", 1, ["'sources' is missing"]),
        ("fps: 30000/1001", "fps: 30\n  crop: [1, 2]", 9, ["video.crop"]),
        ("plan: random", "plan: random\n  spans: [{source: a.mp4, start: 1, stop: 0.5}]", 7, ["before it starts"]),
        ("seconds: 4.0", "seconds: [", 7, ["not readable as YAML"]),
    ],
)
def test_a_mistake_is_told_with_its_line_and_what_is_allowed(tmp_path, old, new, line, words):
    assert old in GOOD
    with pytest.raises(RecipeError) as caught:
        load(write(tmp_path, GOOD.replace(old, new)))
    message = str(caught.value)
    assert "\n" not in message
    assert f"mine.yaml:{line}:" in message
    for word in words:
        assert word in message


ALIASES = "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("old", "new", "line", "reported"),
    [
        ("seconds: 4.0", "seconds: 4.0\n  seconds: 2.0", 6, "the field 'seconds' stands twice (also in line 5)"),
        ("name: mine", "name: mine\nname: other", 2, "the field 'name' stands twice"),
        ("{train: 0.9, val: 0.1}", "{train: 0.9, train: 0.1}", 10, "the field 'train' stands twice"),
        ("{train: 0.9, val: 0.1}", "{train: 0.9, val: 0.01}", 9, "together 1, not 0.91"),
        ("{train: 0.9, val: 0.1}", "{train: 8, val: 2}", 9, "together 1, not 10"),
        ("name: mine", f"x0: &x0 [a]\n{ALIASES}name: mine", 8, "its aliases stand for more than"),
        ("name: mine", "x: &x [*x]\nname: mine", None, ""),
        ("30000/1001", '"1e999999999"', 8, "frames a second is needed"),
        ("30000/1001", "1e300", 8, "frames a second is needed"),
        ("30000/1001", "9" * 5000, None, "a value that means nothing"),
        ("seconds: 4.0", "seconds: " + "[" * 5000, 5, "more than 40 deep"),
        ("seconds: 4.0", "seconds: " + "{a: " * 5000, 5, "more than 40 deep"),
        ("plan: random", "plan: spans\n  spans: [{source: a.mp4, start: 1e300, stop: 2e300}]", 7, "less than or equal"),
        ("folder: videos", 'folder: "vid\\ud800eos"', 3, "a text holds the character '\\ud800'"),
        ("folder: videos", 'folder: "vid\\0eos"', 3, "a text holds the character '\\x00'"),
        ("folder: videos", "folder: s3://bucket/videos", 3, "is an address (s3:)"),
        ("folder: videos", "folder: " + "a" * 5000, 3, "(5000 characters): cannot be a path"),
        ("name: mine", "[a]: 1", 1, "the name of a field is a list"),
        ("seconds: 4.0", "seconds: 2024-99-99", None, "a value that means nothing"),
        ("name: mine", "name: " + "x" * 100_000, 1, "xxx...)"),
    ],
)
def test_what_yaml_allows_and_a_recipe_does_not_is_one_line_at_once(tmp_path, old, new, line, reported):
    assert old in GOOD
    with pytest.raises(RecipeError) as caught:
        load(write(tmp_path, GOOD.replace(old, new)))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    assert reported in message
    assert line is None or f"mine.yaml:{line}:" in message


def test_a_recipe_under_another_name(tmp_path):
    assert load("hand", name="mine").name == "mine"
    with pytest.raises(RecipeError, match="name: a name has small letters, digits, - and _, such as not-a-name"):
        load("hand", name="not a name")


@pytest.mark.parametrize("name", ["hand", "mouth", "fireworks", "sea"])
def test_the_papers_recipes_say_the_papers_values(name):
    recipe = load(name)
    assert recipe.name == name
    assert recipe.frames == 120
    assert recipe.clips.plan == "random"
    assert (recipe.clips.seconds, recipe.clips.clips_per_second) == (4.0, 1.0)
    assert (recipe.video.fps, recipe.video.width, recipe.video.height, recipe.video.crop) == (30, 286, 286, "centre")
    assert recipe.sound.rate == 44100


def test_every_built_in_recipe_loads():
    assert {"hand", "mouth", "fireworks", "sea", "demo"} <= set(built_in())
    for name in built_in():
        load(name)


def test_an_unknown_recipe_names_the_ones_there_are():
    with pytest.raises(RecipeError, match="did you mean mouth"):
        load("mouht")


def test_sources_on_the_command_line_take_the_place_of_the_recipes_own(tmp_path):
    recipe = load("hand", [str(tmp_path)])
    assert [s.folder for s in recipe.sources] == [str(tmp_path)]
    assert recipe.sources[0].subject == "hand"


def test_an_address_on_the_command_line_is_a_source():
    assert load("hand", ["https://example.org/a.mp4"]).sources[0].url == "https://example.org/a.mp4"


def test_spans_from_a_csv(tmp_path):
    (tmp_path / "spans.csv").write_text("source,start,stop\na.mp4,0,4\nb.mp4,1.5,5.5\n")
    recipe = load(write(tmp_path, GOOD.replace("plan: random", "plan: spans\n  spans: spans.csv")))
    assert [(s.source, s.start, s.stop) for s in recipe.clips.spans] == [("a.mp4", 0, 4), ("b.mp4", 1.5, 5.5)]


@pytest.mark.parametrize(
    ("given", "meant"), [("29.97", "30000/1001"), ("23.976023976", "24000/1001"), ("59.94", "60000/1001"), ("25", "25")]
)
def test_rates_by_their_usual_names(tmp_path, given, meant):
    assert load(write(tmp_path, GOOD.replace("30000/1001", given))).video.fps == Fraction(meant)
