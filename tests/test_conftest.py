"""The rules in tests/conftest.py, each tried on a small test suite of its own that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.fast

CONFTEST = Path(__file__).with_name("conftest.py")


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """An empty test suite under this project's conftest."""
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers =\n    fast\n    slow\n    gpu\n    soak\n")
    return pytester


@pytest.mark.parametrize("marks", ["@pytest.mark.fast\n@pytest.mark.slow\n", "@pytest.mark.skip\n"])
def test_a_test_without_exactly_one_speed_stops_the_collection(suite: pytest.Pytester, marks: str) -> None:
    suite.makepyfile(
        f"import pytest\n@pytest.mark.fast\ndef test_right():\n    pass\n{marks}def test_wrong():\n    pass\n"
    )
    result = suite.runpytest("-m", "fast")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*exactly one of the marks fast, slow, gpu, soak: *::test_wrong has*"])
    assert "test_right" not in result.stderr.str()


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_missing_package_skips_at_home_and_fails_in_ci(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str
) -> None:
    """In a test, in its fixture, and for a whole file; a skip that somebody wanted stays one."""
    monkeypatch.setenv("CI", ci)
    call, head = "pytest.importorskip('no_such_package_here')", "import pytest\npytestmark = pytest.mark.fast\n"
    suite.makepyfile(
        test_inside=f"{head}def test_one():\n    {call[:-1]}, reason='not today')\n",
        test_fixture=f"{head}@pytest.fixture\ndef package():\n    {call}\ndef test_two(package):\n    pass\n",
        test_wanted=f"{head}@pytest.mark.skip(reason='wanted')\ndef test_three():\n    pass\n",
        test_whole=f"{head}{call}\n",
    )
    result = suite.runpytest("--continue-on-collection-errors")
    result.assert_outcomes(**({"failed": 1, "errors": 2, "skipped": 1} if ci else {"skipped": 4}))
    assert ("CI must have this package" in result.stdout.str()) is bool(ci)
