"""Settings: which source wins, what each value becomes, and that no mistake is swallowed."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pooch
import pytest

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


def test_every_mistake_is_named_at_once(config, monkeypatch):
    path = config('chache = "/tmp"\nruns = 3\nzzz = 1\n')
    monkeypatch.setenv("SPHERECTL_MODLE", "x")
    monkeypatch.setenv("SPHERECTL_DEVICE", "gpu")
    monkeypatch.setenv("SPHERECTL_OFFLINE", "ja")
    monkeypatch.setenv("_SPHERECTL_COMPLETE", "complete_bash")  # what the shell asks completion with
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
    assert "COMPLETE" not in caught.value.message
    path.write_bytes(b"model = '\xff'")
    with pytest.raises(FileError, match="Cannot read the settings in"):
        load_settings()


def test_another_configuration_file_can_be_named(tmp_path, monkeypatch, config):
    config('model = "of-the-user"\n')
    other = tmp_path / "other.toml"
    other.write_text('model = "of-the-other"\n', encoding="utf-8")
    monkeypatch.setenv("SPHERECTL_CONFIG", str(other))
    assert config_path() == other
    assert load_settings().model == "of-the-other"
    monkeypatch.setenv("SPHERECTL_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(FileError, match=r"SPHERECTL_CONFIG names .*none\.toml, which does not exist"):
        load_settings()


def test_data_lies_at_the_top_of_a_checkout_or_inside_an_installed_package(tmp_path, monkeypatch):
    assert (packaged("zoo"), packaged("recipes")) == (ROOT / "zoo", ROOT / "recipes")
    package = tmp_path / "spherectl"
    inside, beside = package / "_data" / "zoo", tmp_path / "zoo"
    for folder in (inside, beside):  # site-packages may hold a `zoo` of somebody else
        folder.mkdir(parents=True)
    monkeypatch.setattr(settings, "__file__", str(package / "settings.py"))
    assert packaged("zoo") == inside
    with pytest.raises(FileError, match="'recipes' that belongs to spherectl is missing"):
        packaged("recipes")


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
