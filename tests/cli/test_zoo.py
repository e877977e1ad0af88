"""`spherectl zoo`: what each command prints where, and its exit code."""

from __future__ import annotations

import hashlib
import json
import shutil
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from spherectl.cli import zoo as command_file
from spherectl.cli.app import app
from spherectl.settings import load_settings, packaged
from spherectl.zoo import catalogue
from tests.hub import COMMIT, TOKEN, hub_on_this_machine
from tests.serving import hosting

pytestmark = pytest.mark.fast

RUNNER = CliRunner(env={"FORCE_COLOR": None, "NO_COLOR": "1"})

INDEX = """
[[entry]]
name = "one"
kind = "model"
file = "one.safetensors"
sha256 = "{sha256}"
bytes = {bytes}
default = true
licence = "MIT"
summary = "A model of [anything]."
channels = "rgb"
image_size = 32
classes = 10
scores = [{{ metric = "fid", value = 4.5, command = "spherectl evaluate one" }}]

[[entry]]
name = "far"
kind = "model"
urls = ["https://example.org/far.safetensors"]
sha256 = "{sha256}"
bytes = {bytes}
licence = "CC BY-NC 4.0"
summary = "A model elsewhere."
channels = "rgb"
image_size = 256
classes = 0

[[entry]]
name = "rumour"
kind = "model"
page = "https://example.org"
licence = "unknown"
summary = "A model somewhere."
channels = "rgb"
image_size = 256
classes = 1000
"""


def run(*arguments: str):
    return RUNNER.invoke(app, ["zoo", *arguments])


@pytest.fixture
def own_zoo(tmp_path, monkeypatch):
    """One model that is here, one to fetch, one that is only known of."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    about = {"format": 1, "architecture": "sphere-encoder", "class_names": ["a", "b"], "images_seen": 12}
    header = json.dumps(about | {"recipe": {"name": "r", "model": {"num_classes": 2}}})
    text = json.dumps({"__metadata__": {"spherectl": header}}).encode()
    content = len(text).to_bytes(8, "little") + text
    (folder / "one.safetensors").write_bytes(content)
    (folder / "one.md").write_text("# One\n\nA [card] of *one*.\n", encoding="utf-8")
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "index.toml").write_text(INDEX.format(**facts), encoding="utf-8")
    monkeypatch.setattr(catalogue, "packaged", lambda _: folder)
    return folder


def test_ls_lists_all_entries_and_for_machines_every_fact(own_zoo):
    result = run("ls")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["name", "kind", "px", "classes", "size", "licence", "where"],
        ["one", "model", "32", "10", "0.0", "MB", "MIT", "here,", "default"],
        ["far", "model", "256", "none", "0.0", "MB", "CC", "BY-NC", "4.0", "remote"],
        ["rumour", "model", "256", "1000", "unknown", "unknown", "known", "of"],
    ]
    one, far, rumour = json.loads(run("ls", "--json").stdout)
    assert (one["name"], one["state"], one["path"]) == ("one", "here", str(own_zoo / "one.safetensors"))
    assert one["scores"] == [{"metric": "fid", "value": 4.5, "command": "spherectl evaluate one"}]
    assert (far["state"], far["urls"]) == ("remote", ["https://example.org/far.safetensors"])
    assert (rumour["state"], rumour["path"]) == ("known of", None)


def test_show_tells_index_header_and_card(own_zoo):
    lines = run("show", "one").stdout.splitlines()
    assert {"summary: A model of [anything].", "class_names: a, b", "images_seen: 12"} <= set(lines)
    assert "scores: metric=fid value=4.5 command=spherectl evaluate one" in lines
    assert lines[-3:] == ["# One", "", "A [card] of *one*."]  # in a pipe the card is as it is written
    shown = json.loads(run("show", "one", "--json").stdout)
    assert (shown["header"]["images_seen"], shown["header"]["recipe"]["name"]) == (12, "r")
    assert shown["card"] == "# One\n\nA [card] of *one*.\n"
    assert "state: known of" in run("show", "rumour").stdout
    wrong = run("show", "On")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert wrong.stderr.splitlines()[0] == "error: There is no 'On' in the zoo."


def test_fetch_prints_where_the_file_is_and_does_not_pretend(own_zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("SPHERECTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
    missing = run("fetch", "far")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "far.safetensors is missing, and it is not fetched because SPHERECTL_OFFLINE says" in missing.stderr
    there = tmp_path / "cache" / "zoo" / "far.safetensors"
    there.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(own_zoo / "one.safetensors", there)  # the same hash: nothing is asked of the network
    here = run("fetch", "far")
    assert (here.exit_code, here.stdout, here.stderr) == (0, f"{there}\n", "far: licence CC BY-NC 4.0\n")
    unknown = run("fetch", "rumour")
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert "error: rumour is only known of: the zoo has no address to fetch it from." in unknown.stderr


def test_verify_finds_a_changed_byte(own_zoo):
    result = run("verify")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == ["one: ok", "far: not here", "rumour: not here"]
    file = own_zoo / "one.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    result = run("verify")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].startswith(f"one: {file} has {len(content)} bytes and SHA-256 ")
    assert result.stderr.splitlines()[0] == "error: Not as the index says: one."


# What is fetched


@pytest.fixture
def far(own_zoo):
    """The entry `far` on a server of this machine."""
    with hosting() as host:
        host.files["far.safetensors"] = (own_zoo / "one.safetensors").read_bytes()
        index = own_zoo / "index.toml"
        index.write_text(index.read_text().replace("https://example.org/far", f"{host.url}far"))
        yield host


@pytest.fixture
def hub(own_zoo, monkeypatch, tmp_path):
    with hub_on_this_machine(monkeypatch, tmp_path / "hf") as hub:
        yield hub


@pytest.fixture
def person(monkeypatch):
    """Somebody at a terminal, who answers `says` and remembers the questions."""
    person = SimpleNamespace(says=True, asked=[], isatty=lambda: True)

    def confirm(question, **_named):
        person.asked.append(question)
        return person.says

    monkeypatch.setattr(command_file.typer, "confirm", confirm)
    monkeypatch.setattr(command_file, "sys", SimpleNamespace(stdin=person, stderr=person))
    return person


def test_a_program_has_to_say_that_it_accepts_a_licence(far):
    result = run("fetch", "far")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "its licence is CC BY-NC 4.0, which was not accepted yet." in result.stderr
    assert "hint: `spherectl zoo fetch far --accept-licence` fetches it" in result.stderr
    result = run("fetch", "far", "--accept-licence")
    assert (result.exit_code, result.stderr) == (0, "far: licence CC BY-NC 4.0\n")
    assert result.stdout == f"{load_settings().cache / 'zoo' / 'far.safetensors'}\n"
    shown = set(run("show", "far").stdout.splitlines())
    assert {"accepted: CC BY-NC 4.0", "state: here", "class_names: a, b"} <= shown


def test_a_person_is_shown_the_licence_and_asked_once(far, person):
    person.says = False
    result = run("fetch", "far")
    assert (result.exit_code, len(person.asked)) == (2, 1)
    assert "The licence of far" in result.stderr
    assert "is CC BY-NC 4.0. What it permits is for you to find out." in result.stderr
    person.says = True
    assert run("fetch", "far").exit_code == 0
    assert run("rm", "far").exit_code == run("fetch", "far").exit_code == 0
    assert len(person.asked) == 2


def test_what_came_from_the_hub_is_listed_verified_and_removed(hub, own_zoo, monkeypatch):
    hub.put("user/garden", {"m.safetensors": (own_zoo / "one.safetensors").read_bytes()}, licence="other")
    monkeypatch.setenv("SPHERECTL_MODEL", "hf:user/garden")
    model = json.loads(RUNNER.invoke(app, ["doctor", "--json"]).stdout)["model"]
    assert model == {"default": "hf:user/garden, to be fetched when it is first used"}
    assert hub.asked == []  # doctor fetches nothing
    result = run("fetch", "hf:user/garden", "--accept-licence")
    assert (result.exit_code, result.stderr) == (0, "hf:user/garden: licence other, commit 0123456789ab\n")
    path = load_settings().cache / "zoo" / "hf" / "user--garden.safetensors"
    assert result.stdout == f"{path}\n"
    assert "hf:user/garden  model" in run("ls").stdout
    (listed,) = [one for one in json.loads(run("ls", "--json").stdout) if one["name"] == "hf:user/garden"]
    assert (listed["place"], listed["accepted"]) == ("zoo/hf/user--garden", "other")
    assert "hf:user/garden: ok" in run("verify").stdout.splitlines()
    lines = run("show", "hf:user/garden").stdout.splitlines()
    assert {"name: hf:user/garden", f"revision: {COMMIT}", "class_names: a, b"} <= set(lines)
    assert json.loads(run("show", "hf:user/garden", "--json").stdout)["header"]["images_seen"] == 12
    assert "hf:user/other was never fetched." in run("show", "hf:user/other").stderr
    path.write_bytes(path.read_bytes() + b" ")
    broken = run("verify")
    assert (broken.exit_code, "error: Not as the index says: hf:user/garden." in broken.stderr) == (1, True)

    size = path.stat().st_size
    result = run("rm", "hf:user/garden")
    assert (result.exit_code, result.stderr) == (0, f"hf:user/garden: {size:,} bytes freed\n")
    assert not path.exists()
    assert run("rm", "hf:user/garden").stderr == "hf:user/garden: nothing was here\n"
    assert "hf:user/garden" not in run("ls").stdout


def test_rm_takes_unfinished_files_too_and_forgets_when_told(far):
    run("fetch", "far", "--accept-licence")
    folder = load_settings().cache / "zoo"
    (folder / ".far.safetensors.part").write_bytes(b"half")
    (folder / "one.safetensors").write_bytes(b"of another entry")
    run("rm", "far")
    assert {path.name for path in folder.iterdir() if path.suffix != ".lock"} == {"far.json", "one.safetensors"}
    run("rm", "far", "--forget")
    assert not (folder / "far.json").exists()
    for name, why in (("one", "it lies beside its index"), ("rumour", "it is only known of")):
        result = run("rm", name)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"error: {name} was not fetched, {why}" in result.stderr


def test_a_fetched_checkpoint_that_is_none_is_not_kept(far, own_zoo, reference):
    """Nor is its hash: else the right file, when it comes, would be the changed one."""
    config = (reference / "published-layout" / "cfg.json").read_bytes()
    far.files |= {"far/cfg.json": config, "far/ckpt/ep0001.pth": b"\x80\x02."}
    index = own_zoo / "index.toml"
    source = f'published = "{far.url}far/"\nfiles = [{{path = "cfg.json"}}, {{path = "ckpt/ep0001.pth"}}]'
    index.write_text(index.read_text().replace('page = "https://example.org"', source))
    ended = run("fetch", "rumour", "--trust", "--accept-licence")
    assert (ended.exit_code, "ep0001.pth" in ended.stderr) == (1, True)
    assert not [path for path in (load_settings().cache / "zoo").rglob("*") if not path.name.startswith(".")]


# Models of one's own


def test_add_makes_an_index_that_can_be_used(tmp_path, monkeypatch):
    index = tmp_path / "mine" / "index.toml"
    result = run("add", str(packaged("zoo") / "fashion-mnist.safetensors"), "--index", str(index), "--name", "garments")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'mine' / 'garments.md'}\n")
    monkeypatch.setenv("SPHERECTL_ZOO_INDEX", str(index))
    assert "garments" in [entry["name"] for entry in json.loads(run("ls", "--json").stdout)]


def test_push_puts_a_model_on_the_hub(hub, monkeypatch):
    monkeypatch.setattr(catalogue, "packaged", packaged)
    refused = run("push", "emoji", "hf:user/emoji")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "error: To write to the hub takes a token" in refused.stderr
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    result = run("push", "emoji", "hf:user/emoji", "--private")
    assert (result.exit_code, result.stdout) == (0, f"{hub.url}/user/emoji\n")
    assert result.stderr.splitlines()[-1] == "emoji: uploading to hf:user/emoji"
    files = hub.repos["user/emoji"].files("main")
    assert files["model.safetensors"] == (packaged("zoo") / "emoji.safetensors").read_bytes()
    assert files["samples.png"].startswith(b"\x89PNG")
