"""Runs some test files in pytest processes of their own, and reports their tests as if they ran in this one.

PyTorch and llama.cpp must not share a process (`potluck.engine.exclusive` tells why), and llama.cpp loads one set of
kernels a process. Each such group of files is collected and run by a child, whose reports count here like all others.
A child that a native library kills fails the test that was running, and a new child goes on behind it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from potluck.llama.library import is_loaded

CHILD = "POTLUCK_TESTS_CHILD"
"""The environment variable that names the group which a child runs."""
_EVENT = "\x1e"
"""Begins a line of the child's output that speaks to the parent."""
_OPTIONS = ["--capture=sys", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist"]
"""Its file descriptors are left alone, so that its events get out; the parent chose the tests and their order."""
_TAIL_LINES = 60


class Child:
    """A pytest process, heard event by event. `died` says how it ended, where it ended otherwise than it should."""

    def __init__(self, config: pytest.Config, environment: Mapping[str, str], arguments: list[str]) -> None:
        self.died = ""
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *_OPTIONS, *arguments],
            cwd=config.rootpath,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def events(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                if line.startswith(_EVENT):
                    yield json.loads(line[1:])
                else:
                    self._tail.append(line)
        code = self._process.wait()
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            self.died = f"The process that ran this test ended with {cause}.\n\n{''.join(self._tail)}"

    def close(self) -> None:
        with self._process:
            self._process.kill()


class Group:
    """A plugin for the test files that one kind of child runs.

    files: paths relative to the root. environment: what the child has besides this process's.
    shared: the parent runs these files too, and other groups may, so that the group's name is added to theirs.
    missing: why no child can run them on this machine; empty where one can.
    """

    def __init__(
        self,
        name: str,
        files: Iterable[str],
        environment: Mapping[str, str] | None = None,
        *,
        shared: bool = False,
        missing: str = "",
    ) -> None:
        self.name = name
        self.missing = missing
        self.files = frozenset(files)
        self._environment = {**(environment or {}), CHILD: name}
        self.shared = shared
        self._collected: list[str] | None = None
        self._child: Child | None = None
        self._events: Iterator[dict[str, Any]] = iter(())

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> ApartFile | None:
        return self._file(file_path, parent) if self.shared else None

    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> ApartFile | None:
        return None if self.shared else self._file(module_path, parent)

    def _file(self, path: Path, parent: pytest.Collector) -> ApartFile | None:
        name = path.relative_to(parent.config.rootpath).as_posix()
        if name not in self.files:
            return None
        nodeid = f"{name}@{self.name}" if self.shared else name
        file: ApartFile = ApartFile.from_parent(parent, path=path, nodeid=nodeid)
        file.group = self
        return file

    def collected(self, config: pytest.Config, path: Path) -> list[str]:
        """The names of the tests in this file, as a child collects them, with those of the group's other files."""
        if self._collected is None:
            child = Child(config, self._environment, ["--collect-only", *sorted(self.files)])
            self._collected = [name for event in child.events() for name in event.get("collected", ())]
            if child.died:
                raise pytest.Collector.CollectError(child.died)
        file = path.relative_to(config.rootpath).as_posix()
        return [name.removeprefix(f"{file}::") for name in self._collected if name.startswith(f"{file}::")]

    def reports(self, item: ApartItem) -> Iterator[pytest.TestReport]:
        """What a child reports of the test. Raises ChildError when the child dies in it."""
        if self._child is None:
            self._child = Child(item.config, self._environment, self._from(item))
            self._events = self._child.events()
        for event in self._events:
            if event.get("nodeid") == item.child_id:
                if "report" not in event:
                    return
                yield item.config.hook.pytest_report_from_serializable(config=item.config, data=event["report"])
        died, self._child = self._child.died, None
        raise ChildError(died or "The process that should have run this test passed over it.")

    def _from(self, first: ApartItem) -> list[str]:
        """This test and all of the group behind it, by the names that they have in the child."""
        items = [item for item in first.session.items if isinstance(item, ApartItem) and item.group is self]
        return [item.child_id for item in items[items.index(first) :]]

    def pytest_sessionfinish(self) -> None:
        if self._child is not None:  # the run was broken off, or this was its end
            self._child.close()


class ApartFile(pytest.File):
    group: Group

    def collect(self) -> Iterator[ApartItem]:
        missing = self.group.missing
        for name in [self.group.name] if missing else self.group.collected(self.config, self.path):
            yield ApartItem.from_parent(self, name=name)


class ChildError(Exception):
    """A test failed in a child: what its report says, or how the child died."""


class ApartItem(pytest.Item):
    @property
    def group(self) -> Group:
        assert isinstance(self.parent, ApartFile)
        return self.parent.group

    @property
    def child_id(self) -> str:
        return f"{self.path.relative_to(self.config.rootpath).as_posix()}::{self.name}"

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name

    def runtest(self) -> None:
        if self.group.missing:
            pytest.skip(self.group.missing)
        reports = list(self.group.reports(self))
        if failed := [_told(report) for report in reports if report.failed]:
            raise ChildError("\n".join(failed))
        for report in reports:
            if report.skipped:
                pytest.skip(reason_of(report))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return str(excinfo.value) if isinstance(excinfo.value, ChildError) else super().repr_failure(excinfo)


def _told(report: pytest.TestReport) -> str:
    """The report's traceback, and what the test printed."""
    return "\n".join([report.longreprtext, *(f"--- {title} ---\n{text}" for title, text in report.sections)])


def reason_of(report: pytest.TestReport) -> str:
    """Why the test was skipped."""
    told = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return told.removeprefix("Skipped: ").rstrip(".")


class Teller:
    """The child's plugin: tells the parent what it collects and what becomes of each test."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._wanted = {name: place for place, name in enumerate(config.args)}

    def _tell(self, **event: object) -> None:
        assert sys.__stdout__ is not None
        sys.__stdout__.write(f"\n{_EVENT}{json.dumps(event)}\n")
        sys.__stdout__.flush()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self._wanted.get(item.nodeid, 0))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._tell(collected=[item.nodeid for item in session.items])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._tell(nodeid=report.nodeid, report=data)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._tell(nodeid=nodeid)


class LeftOut:
    """A plugin for the workers of a parallel run: what runs apart is left to runs that are not parallel."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self._files = frozenset(name for group in groups if not group.shared for name in group.files)

    def pytest_ignore_collect(self, collection_path: Path, config: pytest.Config) -> bool | None:
        return collection_path.relative_to(config.rootpath).as_posix() in self._files or None


class OneLibrary:
    """A plugin for every process of the tests: the test that loads the second native library fails."""

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        if "torch" in sys.modules and ("llama_cpp" in sys.modules or is_loaded()):
            pytest.exit(f"PyTorch and llama.cpp are both loaded after {item.nodeid}: see tests/kit/groups.py.", 3)


def register(config: pytest.Config, groups: Iterable[Group]) -> None:
    """In a child: tell the parent. In the parent: leave the groups' files to children."""
    config.pluginmanager.register(OneLibrary())
    if CHILD in os.environ:
        config.pluginmanager.register(Teller(config), "apart")
    elif hasattr(config, "workerinput"):
        config.pluginmanager.register(LeftOut(groups), "apart")
    else:
        for group in groups:
            config.pluginmanager.register(group, f"apart-{group.name}")
