"""A first spec holds the author's choices in TOML, with comments; data decides the rest."""

import tomllib

import pytest

from noether.errors import UsageError
from noether.spec.scaffold import DIGITS, Choices, Property, content_of_file, spec_text

WING = {
    "points": Property((3,), float),
    "angle": Property((), float),
    "pressure_target": Property((), float),
}
IMAGES = {"image": Property((1, 8, 8), float), "label": Property((), int, classes=3), "mask": Property((), bool)}


def spec_of(content, **choices) -> dict:
    return tomllib.loads(spec_text(content, Choices("a", **choices), "a.toml"))


def content(properties, samples=100, **names):
    return content_of_file("wing.npz", "../wing.npz", samples, properties, **names)


def refusal(*args, **names) -> str:
    with pytest.raises(UsageError) as caught:
        content(*args, **names)
    return f"{caught.value.message} {caught.value.hint}"


def test_the_example_says_what_was_chosen():
    spec = spec_of(DIGITS, model="cnn", epochs=8, batch_size=32, learning_rate=0.5)
    assert spec["model"]["kind"] == "cnn"
    assert (spec["trainer"]["max_epochs"], spec["trainer"]["effective_batch_size"]) == (8, 32)
    assert spec["model"]["optimizer"]["lr"] == 0.5


def test_arrays_that_end_in_target_are_predicted_from_all_other_real_ones():
    trainer = spec_of(content(WING))["trainer"]
    assert trainer["forward_properties"] == ["points", "angle"]
    assert trainer["target_properties"] == ["pressure_target"]
    assert trainer["field_weights"] == {"pressure": 1.0}
    assert trainer["loss_fn"] == "mse"


def test_real_numbers_are_normalised():
    assert spec_of(content(WING))["transforms"] == [
        {"kind": "normalize", "properties": ["points", "angle", "pressure_target"]}
    ]


def test_the_path_is_the_one_that_the_spec_needs():
    assert spec_of(content(WING, samples=19))["datasets"]["test"] == {
        "kind": "file", "path": "../wing.npz", "split": "test"
    }  # fmt: skip


def test_with_enough_samples_the_best_checkpoint_is_chosen_on_a_part_of_its_own():
    spec = spec_of(content(WING, samples=20))
    assert {part["split"] for part in spec["datasets"].values()} == {"train", "validation", "test"}
    assert {(part["validation_fraction"], part["test_fraction"]) for part in spec["datasets"].values()} == {
        (0.15, 0.15)
    }
    best = next(one for one in spec["trainer"]["callbacks"] if one["kind"] == "best-checkpoint")
    assert best["metric_key"] == "loss/validation/total"
    evaluated = [one["dataset_key"] for one in spec["trainer"]["callbacks"] if one["kind"] == "offline-metrics"]
    assert evaluated == ["validation", "test"]


def test_a_target_of_another_name_gets_the_one_that_trainers_expect():
    spec = spec_of(content(IMAGES, targets=["label"]))
    assert spec["datasets"]["train"]["properties"] == {"image": "image", "label_target": "label"}
    assert spec["trainer"]["target_properties"] == ["label_target"]


def test_integers_are_classes():
    spec = spec_of(content(IMAGES, targets=["label"]))
    assert spec["model"]["out_features"] == {"label": 3}
    assert spec["trainer"]["loss_fn"] == "cross-entropy"
    assert spec["trainer"]["callbacks"][1]["metrics"] == {"label": ["accuracy"]}


def test_channels_of_an_image_have_statistics_of_their_own():
    assert spec_of(content(IMAGES, targets=["label"]))["transforms"] == [
        {"kind": "normalize", "properties": ["image"], "per": "channel"}
    ]


def test_an_update_takes_no_more_samples_than_there_are():
    assert spec_of(content(WING, samples=10))["trainer"]["effective_batch_size"] == 8


def test_the_comments_say_what_the_file_holds():
    text = spec_text(content(IMAGES, targets=["label"]), Choices("a"), "a.toml")
    assert "# wing.npz holds 100 samples of" in text
    assert "#   image  input: float, shape (1, 8, 8)" in text
    assert "#   mask   not used: bool, shape ()" in text


@pytest.mark.parametrize("name", ['quo"te', "new\nline", "a b", "ünï"])
def test_names_that_need_quotes_are_quoted(name):
    properties = {name: Property((2,), float), f"{name}_target": Property((), float)}
    trainer = spec_of(content(properties))["trainer"]
    assert (trainer["forward_properties"], trainer["field_weights"]) == ([name], {name: 1.0})


def test_a_file_without_targets_says_what_it_holds():
    message = refusal({"points": Property((3,), float)})
    assert "points (float, shape (3,))" in message
    assert "--targets" in message


def test_a_misspelt_name_is_reported_with_the_nearest_one():
    assert "Did you mean 'pressure_target'?" in refusal(WING, targets=["presure_target"])


def test_classes_and_real_numbers_need_a_choice():
    mixed = {**WING, "label_target": Property((), int, classes=2)}
    assert "--targets" in refusal(mixed)


@pytest.mark.parametrize("target", [Property((), bool), Property((4,), int), Property((), int)])
def test_targets_that_no_loss_takes_are_refused(target):
    assert "expected real numbers, or one integer from 0 on" in refusal(
        {**WING, "x_target": target}, targets=["x_target"]
    )


def test_inputs_are_real_numbers():
    assert "expected real numbers" in refusal(IMAGES, inputs=["mask"], targets=["label"])
    assert "no real numbers to predict from" in refusal({"label_target": Property((), int, classes=2)})


def test_a_handful_of_samples_cannot_be_split():
    assert "found 4 in" in refusal(WING, samples=4)
