"""Settings: where things are kept and what is used when a command does not say.

Each comes from the environment (SPHERECTL_CACHE, SPHERECTL_DATA, ...), else from `config.toml` in the user's
configuration folder (SPHERECTL_CONFIG names another file), else from the defaults below. A misspelt name in either
place is an error, not a setting that silently does nothing.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from spherectl.documents import parse_toml
from spherectl.errors import FileError, UsageError
from spherectl.files import read_text
from spherectl.places import place
from spherectl.shown import MAX_LISTED, shortened
from spherectl.validation import describe

PREFIX = "SPHERECTL_"
CONFIG = "SPHERECTL_CONFIG"  # the one variable that is no setting: it says where the settings are

MAX_CONFIG = 1 << 20  # bytes of config.toml, which has eight keys

# An address, whose own colons separate nothing; else a path.
_PLACE = re.compile(r"https?://(?:\[[^\]]*\]|[^/:]+)(?::\d+)?[^:]*|[^:]+" if os.pathsep == ":" else r"[^;]+")


def _split(value: object) -> object:
    """A list of paths and addresses in one variable, separated as in PATH."""
    return _PLACE.findall(value) if isinstance(value, str) else value


def _path(value: object) -> object:
    """The path of a text; pydantic tells the setting's name with what is wrong."""
    if not isinstance(value, str):
        return value
    try:
        return place(value, "the path")
    except UsageError as error:
        raise ValueError(error.message) from None


def _path_or_url(value: object) -> object:
    return value if isinstance(value, str) and "://" in value else _path(value)


def _of_user(folder: Callable[[str], Path]) -> Path:
    """One of the folders that platformdirs knows.

    Raises:
        UsageError: it would be in the home of a user who has none, as in a container.
    """
    try:
        path = folder("spherectl")
    except (RuntimeError, KeyError):
        path = Path("~")
    if not path.is_absolute():
        raise UsageError("No home folder is known for this user.", "Set HOME, or SPHERECTL_CACHE and SPHERECTL_DATA.")
    return path


Folder = Annotated[Path, BeforeValidator(_path)]
Place = Annotated[Path | str, BeforeValidator(_path_or_url)]


class Settings(BaseSettings):
    """What is in force. Relative paths are relative to the folder the command is run in; `~` is the user's home.

    Attributes:
        cache: what was fetched (zoo models, weights of perceptual networks); may be deleted at any time.
        data: data sets, one folder each; sets that may be fetched are put here. By default in the user's data folder,
            so that a set is fetched once, whatever folder the work is in.
        runs: training runs, one folder each.
        device: where to compute; "auto" takes CUDA, else MPS, else the CPU.
        model: the model used where a command names none, as --model takes it; None: the newest run, else the zoo's own.
        zoo_index: further indexes beside the zoo's own, files or addresses; in the environment separated as in PATH.
        offline: never open a connection.
        kernels: compile and use the project's own CPU kernels where the processor can run them.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=PREFIX, env_ignore_empty=True)

    cache: Folder = Field(default_factory=lambda: _of_user(platformdirs.user_cache_path))
    data: Folder = Field(default_factory=lambda: _of_user(platformdirs.user_data_path) / "data")
    runs: Folder = Path("runs")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    model: str | None = None
    zoo_index: Annotated[tuple[Place, ...], NoDecode, BeforeValidator(_split)] = ()
    offline: bool = False
    kernels: bool = True

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment, then config.toml; no .env files and no secrets."""
        return init_settings, env_settings, _ConfigFile(settings_cls)


class _ConfigFile(PydanticBaseSettingsSource):
    """The values of config.toml, read when settings are made; `load_settings` tells unknown keys."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """One value, by pydantic-settings' protocol: value, key, whether it needs decoding."""
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """All values of known keys."""
        return {key: value for key, value in read_config().items() if key in Settings.model_fields}


def load_settings() -> Settings:
    """The settings in force now. Nothing is kept between calls.

    Raises:
        UsageError: unknown SPHERECTL_ variables, unknown keys in config.toml, or values that do not fit; all at once.
        FileError: config.toml cannot be read.
    """
    problems = _unknown_variables() + _unknown_keys()
    try:
        settings = Settings()
    except ValidationError as error:
        once = functools.cache(origin)  # reads the file
        problems += describe(error, Settings, lambda path: _where(path, once(path.partition(".")[0])))[:MAX_LISTED]
    if problems:
        raise UsageError(
            f"Settings: {'; '.join(problems)}.", "`spherectl doctor` shows all settings once these are right."
        )
    return settings


def origin(name: str) -> str:
    """Where the value of a setting comes from: a variable's name, the configuration file's path, or "default"."""
    variables = {variable.upper() for variable, value in os.environ.items() if value}
    if f"{PREFIX}{name}".upper() in variables:
        return f"{PREFIX}{name}".upper()
    return str(config_path()) if name in read_config() else "default"


def config_path() -> Path | None:
    """Where config.toml is looked for: SPHERECTL_CONFIG, else the user's configuration folder; None: there is no home.

    Raises:
        UsageError: SPHERECTL_CONFIG is no path.
    """
    named = os.environ.get(CONFIG)
    if named:
        return place(named, CONFIG)
    try:
        return _of_user(platformdirs.user_config_path) / "config.toml"
    except UsageError:
        return None


def read_config() -> dict[str, Any]:
    """The table in config.toml; empty where there is no such file.

    Raises:
        FileError: it cannot be read, or SPHERECTL_CONFIG names no file.
        UsageError: it is not valid TOML.
    """
    path = config_path()
    if path is None:
        return {}
    try:
        return parse_toml(read_text(path, MAX_CONFIG))
    except FileNotFoundError:
        if os.environ.get(CONFIG):
            raise FileError(f"{CONFIG} names {path}, which does not exist.", "Unset it, or write the file.") from None
        return {}
    except OSError as error:
        raise FileError(f"Cannot read the settings in {path}: {error.strerror}.") from None
    except ValueError as error:
        raise UsageError(f"The settings in {path} are not valid TOML: {shortened(str(error))}.") from None


def packaged(name: Literal["recipes", "zoo"]) -> Path:
    """A folder of data that travels with the package: inside the installed package, else at the checkout's top.

    Raises:
        FileError: there is no such folder; the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_data" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileError(f"The folder {name!r} that belongs to spherectl is missing.", "Install spherectl again.")


def _where(path: str, source: str) -> str:
    """Where the value of a setting was given, by its `origin`: the variable, or the key and the file."""
    return source if source.startswith(PREFIX) else f"{path} in {source}"


def _unknown_variables() -> list[str]:
    """A line for SPHERECTL_ variables that are no setting."""
    known = [CONFIG, *(f"{PREFIX}{name}".upper() for name in Settings.model_fields)]
    found = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
    return _unknown(
        [f"variable {shortened(name)}{_nearest(name.upper(), known)}" for name in found[:MAX_LISTED]], found
    )


def _unknown_keys() -> list[str]:
    """A line for keys of config.toml that are no setting."""
    known, path = list(Settings.model_fields), config_path()
    found = [key for key in read_config() if key not in known]
    return _unknown([f"key {shortened(key)} in {path}{_nearest(key, known)}" for key in found[:MAX_LISTED]], found)


def _unknown(described: list[str], found: list[str]) -> list[str]:
    more = [f"{len(found) - len(described):,} more"] if len(found) > len(described) else []
    return [f"unknown {words}" for words in (*described, *more)]


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(shortened(name), known, n=1)
    return f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(known)})"
