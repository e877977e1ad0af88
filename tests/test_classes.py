"""Classes as people type them: what each form means, and what the sentence for a wrong one says."""

from __future__ import annotations

import re

import pytest

from spherectl.classes import UnknownClassError, describe_classes, known_class_names, names_of, parse_classes
from spherectl.data.formats import FASHION_MNIST_CLASSES
from spherectl.errors import UsageError

pytestmark = pytest.mark.fast

GARMENTS = FASHION_MNIST_CLASSES


def garments(*items: str | int) -> list[int]:
    return parse_classes(items, GARMENTS, 10, "fashion-mnist")


@pytest.mark.parametrize(
    ("items", "numbers"),
    [
        ([7], [7]),
        (["7"], [7]),
        ([" 7 "], [7]),
        (["sneaker"], [7]),
        (["SNEAKER"], [7]),
        (["sn"], [7]),
        (["ankle boot"], [9]),
        (["Ankle_Boot"], [9]),
        (["ankle-b"], [9]),
        (["2-4"], [2, 3, 4]),
        (["4-4"], [4]),
        (["all"], list(range(10))),
        (["None"], [10]),
        (["bag,0,2-3"], [8, 0, 2, 3]),
        (["bag, sneaker", 1, "bag"], [8, 7, 1, 8]),
        (["all,none"], [*range(10), 10]),
    ],
)
def test_every_form_is_understood(items, numbers):
    assert garments(*items) == numbers


def test_one_text_may_stand_without_a_list():
    assert parse_classes("sneaker,bag", GARMENTS, 10, "m") == [7, 8]


def test_a_whole_name_goes_before_names_it_begins():
    assert parse_classes(["cat"], ("catfish", "cat", "cattle"), 3, "m") == [1]


def test_a_name_with_a_comma_is_one_name():
    names = ("dog, wild", "dog", "cat")
    assert parse_classes(["dog, wild"], names, 3, "m") == [0]
    assert parse_classes(["dog,cat"], names, 3, "m") == [1, 2]


def test_a_name_that_looks_like_a_range_is_a_name():
    assert parse_classes(["1-2"], ("a", "b", "c", "1-2"), 4, "m") == [3]


def test_a_number_is_a_class_number_also_where_names_are_numbers():
    assert parse_classes(["2"], ("1", "10", "2"), 3, "m") == [2]
    assert parse_classes(["1"], ("1", "10", "2"), 3, "m") == [1]
    with pytest.raises(UnknownClassError, match="there is no class 10"):
        parse_classes(["10"], ("1", "10", "2"), 3, "m")


@pytest.mark.parametrize("asked", ["10", "207", "-1", "8-12", "10-10"])
def test_out_of_range_says_what_there_is(asked):
    with pytest.raises(UnknownClassError) as caught:
        garments(asked)
    known = "fashion-mnist has 10 classes (0-9: t-shirt ... ankle-boot)"
    assert (caught.value.known, caught.value.asked) == (known, asked)
    assert caught.value.message == f"{known}; there is no class {asked}."
    assert caught.value.exit_code == 2


def test_an_unknown_name_says_what_there_is_and_what_is_near():
    with pytest.raises(UnknownClassError) as caught:
        garments("snaeker")
    assert caught.value.message.endswith("(0-9: t-shirt ... ankle-boot); none is called 'snaeker'.")
    assert caught.value.hint == "Did you mean sneaker?"
    with pytest.raises(UnknownClassError) as caught:
        garments("golden retriever")
    assert (caught.value.asked, caught.value.hint) == ("golden retriever", "")


def test_an_ambiguous_name_says_what_it_could_be():
    with pytest.raises(UsageError, match=r"^The class 's' is ambiguous: it could be sandal \(5\), shirt \(6\), sneak"):
        garments("s")
    many = tuple(f"bird {i}" for i in range(9))
    with pytest.raises(UsageError, match=r"bird 0 \(0\), .*, bird 4 \(4\) and 4 more\.") as caught:
        parse_classes(["bird"], many, 9, "m")
    assert not isinstance(caught.value, UnknownClassError)  # another model would not help


def test_a_name_that_two_classes_have_is_ambiguous():
    with pytest.raises(UsageError, match=r"it could be crane \(0\), Crane \(2\)"):
        parse_classes(["crane"], ("crane", "heron", "Crane"), 3, "m")


@pytest.mark.parametrize("asked", ["", " ", "bag,", ",", "9" * 5000, "1-2-3"])
def test_what_means_nothing_is_unknown(asked):
    with pytest.raises(UnknownClassError):
        garments(asked)


def test_a_range_backwards_is_refused():
    with pytest.raises(UsageError, match="The range 5-2 is empty"):
        garments("5-2")


def test_nothing_at_all_is_refused():
    with pytest.raises(UsageError, match="at least one class"):
        garments()


def test_a_name_for_a_model_without_names_asks_for_a_number():
    assert parse_classes(["207"], (), 1000, "big") == [207]
    with pytest.raises(UsageError, match=r"^big has 1000 classes \(0-999\) without names\.") as caught:
        parse_classes(["golden retriever"], (), 1000, "big")
    assert not isinstance(caught.value, UnknownClassError)


def test_an_unconditional_model_has_only_none():
    assert parse_classes(["none"], (), 0, "faces") == [0]
    for asked in ("all", "3", "cat"):
        with pytest.raises(UsageError, match="faces is unconditional"):
            parse_classes([asked], (), 0, "faces")


def test_classes_are_described_by_number_and_ends():
    assert describe_classes(GARMENTS, 10) == "10 classes (0-9: t-shirt ... ankle-boot)"
    assert describe_classes((), 1000) == "1000 classes (0-999)"
    assert describe_classes(("cat",), 1) == "1 class (0: cat)"
    assert describe_classes((), 1) == "1 class (0)"


# Names of known sets


@pytest.mark.parametrize(("dataset", "count"), [("imagenet", 1000), ("flowers102", 102), ("cifar10", 10)])
def test_no_two_names_of_a_set_are_typed_alike(dataset, count):
    names = known_class_names(dataset)
    assert len(names) == len({re.sub(r"[\s_-]+", "-", name.lower()) for name in names}) == count
    some = range(0, count, 1 + count // 50)
    assert [parse_classes([names[i]], names, count, dataset) for i in some] == [[i] for i in some]


@pytest.mark.parametrize(
    ("typed", "number"),
    [
        ("golden retriever", 207),
        ("Golden_Retriever", 207),
        ("golden", 207),
        ("labrador", 208),
        ("siberian husky", 250),
        ("husky", 250),  # a word within the name
        ("cardigan", 474),
        ("Cardigan Welsh corgi", 264),
        ("tench", 0),
        ("toilet tissue", 999),
    ],
)
def test_imagenets_classes_have_their_known_numbers(typed, number):
    assert parse_classes([typed], known_class_names("imagenet"), 1000, "m") == [number]


def test_the_beginning_of_a_name_goes_before_that_of_a_word():
    names = ("ankle-boot", "boot jack", "hiking boot")
    assert parse_classes(["boot"], names, 3, "m") == [1]
    with pytest.raises(UsageError, match=r"'husk' is ambiguous: it could be red husky \(0\), grey husky \(1\)"):
        parse_classes(["husk"], ("red husky", "grey husky"), 2, "m")


def test_the_lists_agree_with_torchvisions():
    from torchvision.datasets import Flowers102
    from torchvision.models import ResNet18_Weights

    theirs = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert [i for i, name in enumerate(known_class_names("imagenet")) if name != theirs[i]] == [264]
    assert known_class_names("flowers102") == tuple(Flowers102.classes)


@pytest.mark.parametrize(
    ("data", "classes", "dataset"),
    [
        ("imagenet256", 1000, "imagenet"),
        ("ImageNet-1k", 1000, "imagenet"),
        ("oxford-flowers", 102, "flowers102"),
        ("flowers256", 102, "flowers102"),
        ("cifar-10", 10, "cifar10"),
        ("cifar10-uncond", 0, None),
        ("cifar-100", 10, None),
        ("imagenet", 100, None),
        ("fashion-mnist", 10, None),
        ("", 1000, None),
    ],
)
def test_a_models_names_follow_from_its_data(data, classes, dataset):
    assert names_of(data, classes) == (known_class_names(dataset) if dataset else ())
