"""Settings: which source wins, what each value becomes, and that no mistake is swallowed."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pooch
import pytest
from pydantic import ValidationError

from spherectl import settings
from spherectl.errors import FileError, UsageError
from spherectl.settings import Settings, config_path, load_settings, origin, packaged

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def config():
    """Writes config.toml where the user's configuration lies."""

    def write(text: str) -> Path:
        path = platformdirs.user_config_path("spherectl") / "config.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_defaults_are_the_systems_places():
    found = load_settings()
    assert found.cache == Path(pooch.os_cache("spherectl"))  # the same folder as pooch itself would take
    assert found.data == platformdirs.user_data_path("spherectl") / "data"
    assert found.runs == Path("runs")
    assert (found.device, found.model, found.zoo_index, found.offline) == ("auto", None, (), False)


def test_a_variable_goes_before_the_file_and_the_file_before_the_default(config, monkeypatch):
    path = config('device = "cpu"\nmodel = "of-the-file"\n')
    monkeypatch.setenv("SPHERECTL_MODEL", "of-the-variable")
    found = load_settings()
    assert (found.model, found.device, found.offline) == ("of-the-variable", "cpu", False)
    assert [origin(name) for name in ("model", "device", "offline")] == ["SPHERECTL_MODEL", str(path), "default"]


def test_an_argument_goes_before_all(config, monkeypatch):
    config('model = "of-the-file"\n')
    monkeypatch.setenv("SPHERECTL_MODEL", "of-the-variable")
    assert Settings(model="given").model == "given"


def test_home_is_expanded_wherever_a_path_comes_from(config, monkeypatch):
    config('data = "~/images"\nzoo_index = ["~/zoo/index.toml"]\n')
    monkeypatch.setenv("SPHERECTL_RUNS", "~/runs")
    found = load_settings()
    home = Path.home()
    assert (found.data, found.runs, found.zoo_index) == (
        home / "images",
        home / "runs",
        (home / "zoo" / "index.toml",),
    )


def test_several_indexes_in_a_variable_are_separated_as_in_path(monkeypatch):
    monkeypatch.setenv("SPHERECTL_ZOO_INDEX", os.pathsep.join(["/a/index.toml", "/b/index.toml"]))
    assert load_settings().zoo_index == (Path("/a/index.toml"), Path("/b/index.toml"))


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().device = "cpu"


def test_every_mistake_is_named_at_once(config, monkeypatch):
    path = config('chache = "/tmp"\nruns = 3\nzzz = 1\n')
    monkeypatch.setenv("SPHERECTL_MODLE", "x")
    monkeypatch.setenv("SPHERECTL_DEVICE", "gpu")
    monkeypatch.setenv("SPHERECTL_OFFLINE", "ja")
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert caught.value.exit_code == 2
    for words in (
        "unknown variable SPHERECTL_MODLE (did you mean SPHERECTL_MODEL?)",
        f"unknown key chache in {path} (did you mean cache?)",
        f"unknown key zzz in {path} (known: cache, data, runs,",
        f"runs in {path}: expected a path, got 3",
        "SPHERECTL_DEVICE: expected 'auto', 'cpu', 'cuda' or 'mps', got 'gpu'",
        "SPHERECTL_OFFLINE: expected true or false, got 'ja'",
    ):
        assert words in caught.value.message


def test_variables_of_others_are_not_ours_to_complain_about(monkeypatch):
    monkeypatch.setenv("_SPHERECTL_COMPLETE", "complete_bash")  # what the shell asks completion with
    monkeypatch.setenv("SPHERE", "x")
    load_settings()


def test_another_configuration_file_can_be_named(tmp_path, monkeypatch, config):
    config('model = "of-the-user"\n')
    other = tmp_path / "other.toml"
    other.write_text('model = "of-the-other"\n', encoding="utf-8")
    monkeypatch.setenv("SPHERECTL_CONFIG", str(other))
    assert config_path() == other
    assert load_settings().model == "of-the-other"


def test_a_named_configuration_file_must_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("SPHERECTL_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(FileError, match=r"SPHERECTL_CONFIG names .*none\.toml, which does not exist"):
        load_settings()


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [(b"model = ", UsageError, "are not valid TOML"), (b"model = '\xff'", FileError, "Cannot read the settings in")],
)
def test_a_damaged_configuration_file_is_named(config, content, kind, words):
    path = config("")
    path.write_bytes(content)
    with pytest.raises(kind, match=words) as caught:
        load_settings()
    assert str(path) in caught.value.message


def test_data_lies_at_the_top_of_a_checkout():
    assert (packaged("zoo"), packaged("recipes")) == (ROOT / "zoo", ROOT / "recipes")


def test_data_lies_inside_an_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "spherectl"
    inside, beside = package / "_data" / "zoo", tmp_path / "zoo"
    for folder in (inside, beside):  # site-packages may hold a `zoo` of somebody else
        folder.mkdir(parents=True)
    monkeypatch.setattr(settings, "__file__", str(package / "settings.py"))
    assert packaged("zoo") == inside
    with pytest.raises(FileError, match="'recipes' that belongs to spherectl is missing"):
        packaged("recipes")


@pytest.mark.parametrize("content", ["\ufeffdevice = 'cpu'\n", "device = 'cpu'\r\n"])
def test_editors_of_windows_write_settings_too(config, content):
    config("").write_bytes(content.encode())
    assert load_settings().device == "cpu"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a = " + "[" * 100_000, "nested deeper than 64"),
        ("#" * (settings.MAX_CONFIG + 1), "it has more than"),
        ("".join(f"key{i} = 1\n" for i in range(3000)), "2,990 more"),
        (f"{'k' * 100_000} = 1", "unknown key kkk"),
        (f"device = '{'x' * 100_000}'", "expected 'auto'"),
        ('device = "\\u001b[31mred"', r"\x1b[31mred"),
        ("zoo_index = [" + "1," * 1000 + "]", "zoo_index.0 in"),
    ],
)
def test_a_hostile_configuration_file_is_a_short_printable_sentence(config, content, words):
    config(content)
    with pytest.raises((UsageError, FileError)) as caught:
        load_settings()
    assert words in str(caught.value)
    assert len(str(caught.value)) <= 4_000
    assert str(caught.value).isprintable()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_no_configuration(tmp_path, monkeypatch, make):
    make(tmp_path / "config.toml")
    monkeypatch.setenv("SPHERECTL_CONFIG", str(tmp_path / "config.toml"))
    with pytest.raises(FileError, match=r"not a regular file|Is a directory"):
        load_settings()


@pytest.mark.parametrize("name", ["CACHE", "DATA", "RUNS", "ZOO_INDEX", "CONFIG"])
@pytest.mark.parametrize("value", ["~nobody-has-this-name/x", "a" * 300, "a/" * 3000])
def test_a_path_that_no_file_can_have_names_its_variable(monkeypatch, name, value):
    monkeypatch.setenv(f"SPHERECTL_{name}", value)
    with pytest.raises(UsageError, match=f"SPHERECTL_{name}|home folder of that user") as caught:
        load_settings()
    assert len(str(caught.value)) < 400


def test_without_a_home_a_sentence_says_what_to_set(monkeypatch):
    """As for a user of a container who is in no list of users."""

    def homeless(_: object) -> str:
        raise RuntimeError

    monkeypatch.setattr(platformdirs, "user_cache_path", homeless)
    monkeypatch.setattr(platformdirs, "user_data_path", homeless)
    monkeypatch.setattr(platformdirs, "user_config_path", homeless)
    with pytest.raises(UsageError, match="Set HOME, or SPHERECTL_CACHE and SPHERECTL_DATA"):
        load_settings()
    monkeypatch.setenv("SPHERECTL_CACHE", "/a")
    monkeypatch.setenv("SPHERECTL_DATA", "/b")
    assert (load_settings().cache, config_path()) == (Path("/a"), None)
