"""What all tests share: the table of skips, and in .ci/run no skip that .ci/run could have cured."""

import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from fahr.store import s3
from tools.runs import FEWER_PROCESSES
from tools.s3 import RealStore

# A machine that is busy must not fail a property, and a seed is never chosen by the clock.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True)
hypothesis.settings.load_profile("house")

# Tests start hundreds of processes, most of them Ray's: none shall compile again what one before it has compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Reasons that a clean clone cannot cure by itself. Everything else that skips fails .ci/run.
ACCEPTED = ("the real portraits are not here", "the detector weights are not here", "no CUDA device")


# What starts Ray, or waits for what it started, goes one after the other; a file stays whole, since it shares fixtures.
TOGETHER = ("tests/jobs/", "tests/serve/", "tests/test_readme.py")


class _Whole(LoadScopeScheduling):
    """For `-n`: who runs what."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        whole = next((place for place in TOGETHER if file.startswith(place)), file)
        return TOGETHER[1] if whole == TOGETHER[-1] else whole


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Whole | None:
    return _Whole(config, log) if config.getoption("dist") == "loadscope" else None


def _skips(terminal: pytest.TerminalReporter) -> Counter[str]:
    reasons: Counter[str] = Counter()
    for report in terminal.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):
            reasons[str(report.longrepr[2]).removeprefix("Skipped: ")] += 1
    return reasons


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = _skips(terminalreporter)
    if reasons:
        terminalreporter.section("skipped, by reason")
        for reason, count in reasons.most_common():
            terminalreporter.write_line(f"{count:5d}  {reason}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI_RUN") or terminal is None:
        return
    curable = [reason for reason in _skips(terminal) if not reason.startswith(ACCEPTED)]
    if curable:
        terminal.write_line(f"\n.ci/run must cure these skips, not pass over them: {curable}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def real_store() -> Iterator[RealStore]:
    """A real S3 store, started once for the run and wiped at its end."""
    store = RealStore()
    try:
        yield store
    finally:
        store.wipe()


@pytest.fixture
def bucket(real_store: RealStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://NAME` of a new bucket in the real store, with the environment set for it."""
    for name, value in real_store.variables.items():
        monkeypatch.setenv(name, value)
    return _new_bucket()


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One local Ray for the whole run: starting one takes ten seconds and more."""
    os.environ |= FEWER_PROCESSES
    import ray

    from jobs._local_ray import start_ray

    # Logical CPUs, on two cores: Ray Data's own helpers want some beside the actors.
    start_ray(num_cpus=4, include_dashboard=False, object_store_memory=200 << 20)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def _moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def quick_bucket(_moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://NAME` of a new bucket in moto: quick, but it accepts wrong keys, wrong digests and never fails."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", _moto)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    return _new_bucket()


def _new_bucket() -> str:
    name = f"fahr-{uuid.uuid4().hex[:12]}"
    s3.client().create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place: a local folder, then a prefix in S3."""
    if request.param == "local":
        return str(tmp_path / "place")
    return str(request.getfixturevalue("quick_bucket")) + "/place"
