"""Classes as people type them: what each form means, and what the sentence for a wrong one says."""

from __future__ import annotations

import re

import pytest

from spherectl.classes import (
    UnknownClassError,
    check_class_names,
    describe_classes,
    names_of,
    parse_classes,
)
from spherectl.data.sets import find_record
from spherectl.errors import FileError, UsageError

pytestmark = pytest.mark.fast

GARMENTS = find_record("fashion-mnist").class_names


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


NUMBERED = ("1", "10", "2", "20")  # as folders of these names are sorted


def test_where_names_are_numbers_a_name_goes_before_the_number_of_no_class():
    assert parse_classes(["10", "20", "2"], NUMBERED, 4, "m") == [1, 3, 2], "2 is called 2"


def test_what_may_be_a_name_or_the_number_of_another_class_is_refused():
    with pytest.raises(UsageError) as caught:
        parse_classes(["1"], NUMBERED, 4, "m")
    assert caught.value.message == (
        "The class '1' is ambiguous: it is the name of class 0, and the number of class 1, 10."
    )
    assert caught.value.hint == "Type 0-0 for the class called 1, or 1-1 for the class of that number."
    assert parse_classes(["0-0", "1-1"], NUMBERED, 4, "m") == [0, 1]
    assert not isinstance(caught.value, UnknownClassError)


def test_integers_and_ranges_are_always_numbers():
    assert parse_classes([1, 3, "1-3"], NUMBERED, 4, "m") == [1, 3, 1, 2, 3]
    assert parse_classes([2], ("0", "1", "2"), 3, "m") == parse_classes(["2"], ("0", "1", "2"), 3, "m") == [2]


def test_names_of_numbers_with_zeros_before_them_count_as_these_numbers():
    with pytest.raises(UsageError, match=r"it is the name of class 0, and the number of class 1, 02\."):
        parse_classes(["1"], ("01", "02"), 2, "m")
    assert parse_classes(["2"], ("01", "02"), 2, "m") == [1]


@pytest.mark.parametrize("asked", ["30", 30, "1-9", "-4"])
def test_where_names_are_numbers_no_other_model_is_offered(asked):
    with pytest.raises(UsageError, match=f"there is no class {asked}") as caught:
        parse_classes([asked], NUMBERED, 4, "m")
    assert not isinstance(caught.value, UnknownClassError)
    assert caught.value.hint == "They are called 1, 10, 2, 20."


@pytest.mark.parametrize(("asked", "word"), [("none", "no class"), ("ALL", "all classes")])
def test_classes_called_as_the_words_are_told_apart(asked, word):
    names = ("cat", asked.lower())
    with pytest.raises(UsageError, match=f"it is the name of class 1, and the word for {word}") as caught:
        parse_classes([asked], names, 2, "m")
    assert caught.value.hint == f"Type 1-1 for the class called {asked.lower()}."
    assert parse_classes(["1-1"], names, 2, "m") == [1]


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


def test_a_name_of_pages_is_cut():
    long = "x" * 100_000
    for names in (("cat", "dog"), (long, f"{long}y")):
        for asked in ("z" * 100_000, "x"):
            with pytest.raises(UsageError) as caught:
                parse_classes([asked], names, 2, "m")
            assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7, "expected a name for every class, in the order of their numbers, got 7"),
        ([], "expected a name for every class"),
        ({"0": "cat"}, "expected a name for every class"),
        (["cat", True], "class 1: expected a name, got True"),
        (["cat", " "], "class 1: expected a name, got ' '"),
        (["caf\udce9"], "is not UTF-8, so that no model file can hold it"),
        (["x"] * 1_000_001, "1,000,001 classes are more than 1,000,000"),
    ],
)
def test_names_of_a_sets_classes_are_texts(value, words):
    with pytest.raises(FileError, match=f"^names.json: .*{words}"):
        check_class_names(value, "names.json")
    assert check_class_names(["cat", "Käse"], "names.json") == ("cat", "Käse")


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
    names = find_record(dataset).class_names
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
    assert parse_classes([typed], find_record("imagenet").class_names, 1000, "m") == [number]


def test_the_beginning_of_a_name_goes_before_that_of_a_word():
    names = ("ankle-boot", "boot jack", "hiking boot")
    assert parse_classes(["boot"], names, 3, "m") == [1]
    with pytest.raises(UsageError, match=r"'husk' is ambiguous: it could be red husky \(0\), grey husky \(1\)"):
        parse_classes(["husk"], ("red husky", "grey husky"), 2, "m")


def test_the_lists_agree_with_torchvisions():
    from torchvision.datasets import Flowers102
    from torchvision.models import ResNet18_Weights

    theirs = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert [i for i, name in enumerate(find_record("imagenet").class_names) if name != theirs[i]] == [264]
    assert find_record("flowers102").class_names == tuple(Flowers102.classes)


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
    assert names_of(data, classes) == (find_record(dataset).class_names if dataset else ())
