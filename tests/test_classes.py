"""Classes as people type them: what each form means, and what the sentence for a wrong one says."""

from __future__ import annotations

import re

import pytest
from torchvision.datasets import Flowers102
from torchvision.models import ResNet18_Weights

from spherectl.classes import UnknownClassError, check_class_names, names_of, parse_classes
from spherectl.data.sets import find_record
from spherectl.errors import FileError, UsageError

pytestmark = pytest.mark.fast

GARMENTS = find_record("fashion-mnist").class_names
NUMBERED = ("1", "10", "2", "20")  # as folders of these names are sorted


@pytest.mark.parametrize(
    ("items", "numbers"),
    [
        ([7, " 7 "], [7, 7]),
        (["SNEAKER"], [7]),
        (["Ankle_Boot"], [9]),
        (["ankle b"], [9]),
        (["2-4"], [2, 3, 4]),
        (["None"], [10]),
        (["bag, sneaker", 1, "bag"], [8, 7, 1, 8]),
        (["all,none"], [*range(10), 10]),
        ("sneaker,bag", [7, 8]),  # without a list
    ],
)
def test_every_form_is_understood(items, numbers):
    assert parse_classes(items, GARMENTS, 10, "fashion-mnist") == numbers


@pytest.mark.parametrize(
    ("items", "names", "numbers"),
    [
        (["cat"], ("catfish", "cat", "cattle"), [1]),  # a whole name goes before names it begins
        (["boot"], ("ankle-boot", "boot jack"), [1]),  # and the beginning of a name before that of a word
        (["dog, wild"], ("dog, wild", "dog", "cat"), [0]),
        (["dog,cat"], ("dog, wild", "dog", "cat"), [1, 2]),
        (["1-2"], ("a", "b", "c", "1-2"), [3]),
        (["10", "20", "2"], NUMBERED, [1, 3, 2]),  # the number of no class is a name
        (["0-0", 1, "1-3"], NUMBERED, [0, 1, 1, 2, 3]),  # integers and ranges are always numbers
        ([2, "2"], ("0", "1", "2"), [2, 2]),
        (["2"], ("01", "02"), [1]),
        (["1-1"], ("cat", "all"), [1]),
        (["husky", "cardigan", "Cardigan Welsh corgi"], find_record("imagenet").class_names, [250, 474, 264]),
        (["207"], (), [207]),
    ],
)
def test_names_go_before_numbers(items, names, numbers):
    assert parse_classes(items, names, len(names) or 1000, "m") == numbers


@pytest.mark.parametrize(
    ("asked", "names", "words", "hint"),
    [
        ("1", NUMBERED, "is ambiguous: it is the name of class 0, and the number of class 1, 10.", "Type 0-0 for"),
        ("none", ("cat", "none"), "it is the name of class 1, and the word for no class", "Type 1-1 for the class"),
        ("1-9", NUMBERED, "there is no class 1-9", "They are called 1, 10, 2, 20."),
        ("s", GARMENTS, "The class 's' is ambiguous: it could be sandal (5), shirt (6), sneak", "Type more of"),
        ("bird", tuple(f"bird {i}" for i in range(9)), "bird 4 (4) and 4 more.", ""),
        ("crane", ("crane", "heron", "Crane"), "it could be crane (0), Crane (2)", ""),
        ("5-2", GARMENTS, "The range 5-2 is empty", ""),
        ("retriever", (), "m has 1000 classes (0-999) without names.", "Give a number"),
    ],
)
def test_what_no_other_model_would_understand_better_is_refused(asked, names, words, hint):
    with pytest.raises(UsageError) as caught:
        parse_classes([asked], names, len(names) or 1000, "m")
    assert words in caught.value.message
    assert hint in caught.value.hint
    assert not isinstance(caught.value, UnknownClassError)


def test_an_unconditional_model_has_none_alone():
    assert parse_classes(["none"], (), 0, "faces") == [0]
    with pytest.raises(UsageError, match="faces is unconditional"):
        parse_classes(["3"], (), 0, "faces")


@pytest.mark.parametrize("asked", ["10", "-1", "8-12"])
def test_out_of_range_says_what_there_is(asked):
    with pytest.raises(UnknownClassError) as caught:
        parse_classes([asked], GARMENTS, 10, "fashion-mnist")
    known = "fashion-mnist has 10 classes (0-9: t-shirt ... ankle-boot)"
    assert (caught.value.known, caught.value.asked) == (known, asked)
    assert caught.value.message == f"{known}; there is no class {asked}."
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("asked", "hint"), [("snaeker", "Did you mean sneaker?"), ("golden retriever", ""), ("1-2-3", ""), ("bag,", "")]
)
def test_an_unknown_name_says_what_there_is_and_what_is_near(asked, hint):
    with pytest.raises(UnknownClassError, match=r"\(0-9: t-shirt \.\.\. ankle-boot\); none is called") as caught:
        parse_classes([asked], GARMENTS, 10, "fashion-mnist")
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7, "expected a name for every class, in the order of their numbers, got 7"),
        ([], "expected a name for every class"),
        (["cat", " "], "class 1: expected a name, got ' '"),
        (["caf\udce9"], "is not UTF-8, so that no model file can hold it"),
        (["x"] * 1_000_001, "1,000,001 classes are more than 1,000,000"),
    ],
)
def test_names_of_a_sets_classes_are_texts(value, words):
    with pytest.raises(FileError, match=f"^names.json: .*{words}"):
        check_class_names(value, "names.json")
    assert check_class_names(["cat", "Käse"], "names.json") == ("cat", "Käse")


@pytest.mark.parametrize(("dataset", "count"), [("imagenet", 1000), ("flowers102", 102), ("cifar10", 10)])
def test_no_two_names_of_a_set_are_typed_alike(dataset, count):
    names = find_record(dataset).class_names
    assert len(names) == len({re.sub(r"[\s_-]+", "-", name.lower()) for name in names}) == count
    some = range(0, count, 1 + count // 12)
    assert [parse_classes([names[i]], names, count, dataset) for i in some] == [[i] for i in some]


def test_the_lists_agree_with_torchvisions():
    theirs = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert [i for i, name in enumerate(find_record("imagenet").class_names) if name != theirs[i]] == [264]
    assert find_record("flowers102").class_names == tuple(Flowers102.classes)


@pytest.mark.parametrize(
    ("data", "classes", "dataset"),
    [
        ("imagenet256", 1000, "imagenet"),
        ("oxford-flowers", 102, "flowers102"),
        ("cifar10-uncond", 0, None),
        ("cifar-100", 10, None),
        ("imagenet", 100, None),
        ("", 1000, None),
    ],
)
def test_a_models_names_follow_from_its_data(data, classes, dataset):
    assert names_of(data, classes) == (find_record(dataset).class_names if dataset else ())
