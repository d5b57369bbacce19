"""What each system needs to start a node at login: a unit of systemd, an agent of launchd, or a task of Windows."""

from __future__ import annotations

import hashlib
import plistlib
import re
import shlex
import subprocess
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import psutil

from potluck.errors import PotluckError
from potluck.platform import user_number

SYSTEMS = ("linux", "darwin", "win32")
"""The systems for which there is a service, as `platform.system` names them."""

_LEAVE_S = 45
"""Seconds until a node is killed: one that leaves politely takes 30 at most."""
_AGAIN_S = 30
"""Seconds until a node that has failed is started again."""
_HANDED_ON = ("POTLUCK_DATA", "POTLUCK_CACHE", "POTLUCK_LLAMA", "SSL_CERT_FILE")
"""Paths in the environment without which the node would look elsewhere when it starts by itself."""
_UNWRITABLE = ("Cc", "Cs")
"""Control characters, and bytes of a path that are no text."""
_TASK = "http://schemas.microsoft.com/windows/2004/02/mit/task"


class Call(NamedTuple):
    """A program to run. may_fail: it fails where there is nothing to do."""

    words: tuple[str, ...]
    may_fail: bool = False


@dataclass(frozen=True)
class Service:
    """A node that its system starts at login.

    path, text: the file that says so. install: what to run once it is written. remove: what to run before the file is
    removed, and removed: after that. advice: sentences for the owner, which say how to start, watch and stop it.
    """

    path: Path
    text: bytes
    install: tuple[Call, ...]
    remove: tuple[Call, ...]
    removed: tuple[Call, ...]
    advice: tuple[str, ...]


def service_of(
    system: str, name: str, command: Sequence[str], home: Path, data: Path, environ: Mapping[str, str]
) -> Service:
    """The service of the node with this name. Raises PotluckError for other systems, and for what no file can hold.

    system: as `platform.system` gives it. command: the words that start the node. data: Potluck's folder of data.
    """
    handed_on = {key: str(Path(environ[key]).absolute()) for key in _HANDED_ON if environ.get(key)}
    if any(unicodedata.category(one) in _UNWRITABLE for word in (name, *command, *handed_on.values()) for one in word):
        raise PotluckError("A node with control characters in its name or options cannot be started at login.")
    match system:
        case "linux":
            return _unit(name, command, Path(environ.get("XDG_CONFIG_HOME") or home / ".config"), handed_on)
        case "darwin":
            return _agent(name, command, home / "Library", handed_on)
        case "win32":
            return _task(name, command, data / "services", environ)
    raise PotluckError("Nodes can be started at login on Linux with systemd, on macOS and on Windows, but not here.")


def label_of(name: str) -> str:
    """The name in characters that every system takes, and another one for every name."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    return plain if name and plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _unit(name: str, command: Sequence[str], config: Path, handed_on: Mapping[str, str]) -> Service:
    unit = f"potluck-{label_of(name)}.service"
    program, *rest = command
    environment = {"PYTHONUNBUFFERED": "1", **handed_on}
    lines = (
        "# A node of Potluck, written by potluck service install.",
        "[Unit]",
        f"Description=Potluck node {label_of(name)}",
        "[Service]",
        # Nothing is put in for a dollar sign in the first word.
        " ".join([f"ExecStart={_quoted(program)}", *(_quoted(word).replace("$", "$$") for word in rest)]),
        *(f"Environment={_quoted(f'{key}={value}')}" for key, value in environment.items()),
        "# Not always: a node that was told to leave stays away.",
        "Restart=on-failure",
        f"RestartSec={_AGAIN_S}",
        "KillSignal=SIGINT",
        "KillMode=mixed",
        f"TimeoutStopSec={_LEAVE_S}",
        "UMask=0077",
        "[Install]",
        "WantedBy=default.target",
    )
    systemctl = ("systemctl", "--user")
    reload = Call((*systemctl, "daemon-reload"))
    return Service(
        config / "systemd" / "user" / unit,
        "".join(f"{line}\n" for line in lines).encode(),
        (reload, Call((*systemctl, "enable", unit)), Call((*systemctl, "restart", unit))),
        (Call((*systemctl, "disable", "--now", unit)),),
        (reload,),
        (
            f"To watch it: journalctl --user -fu {unit}",
            f"To stop it: systemctl --user stop {unit}",
            f"To start it again: systemctl --user start {unit}",
        ),
    )


def _quoted(word: str) -> str:
    """The word as systemd reads it back."""
    return '"{}"'.format(word.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"'))


def _agent(name: str, command: Sequence[str], library: Path, handed_on: Mapping[str, str]) -> Service:
    label = f"org.potluck.{label_of(name)}"
    path, log = library / "LaunchAgents" / f"{label}.plist", library / "Logs" / f"{label}.log"
    agent = {
        "Label": label,
        "ProgramArguments": list(command),
        "EnvironmentVariables": {"PYTHONUNBUFFERED": "1", **handed_on},
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},  # a node that was told to leave stays away
        "ThrottleInterval": _AGAIN_S,
        "ExitTimeOut": _LEAVE_S,
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
        "Umask": 0o077,
    }
    domain = f"gui/{user_number()}"
    out = Call(("launchctl", "bootout", f"{domain}/{label}"), may_fail=True)  # it fails where it is not loaded
    return Service(
        path,
        plistlib.dumps(agent),
        (out, Call(("launchctl", "bootstrap", domain, str(path)))),
        (out,),
        (),
        (
            f"To watch it: tail -f {shlex.quote(str(log))}",
            f"To stop it: launchctl kill INT {domain}/{label}",
            f"To start it again: launchctl kickstart {domain}/{label}",
        ),
    )


def _task(name: str, command: Sequence[str], folder: Path, environ: Mapping[str, str]) -> Service:
    task = f"Potluck {label_of(name)}"
    path = folder / f"{label_of(name)}.xml"
    chosen = ("/TN", task)
    return Service(
        path,
        _task_text(name, command, _user(environ)),
        (
            Call(("schtasks", "/End", *chosen), may_fail=True),  # of an earlier install; there may be none
            Call(("schtasks", "/Create", "/F", *chosen, "/XML", str(path))),
            Call(("schtasks", "/Run", *chosen)),
        ),
        (Call(("schtasks", "/End", *chosen), may_fail=True), Call(("schtasks", "/Delete", "/F", *chosen))),
        (),
        (
            "To watch it, look at its window.",
            f'To stop it, press Ctrl-C there, or run: schtasks /End /TN "{task}"',
            f'To start it again: schtasks /Run /TN "{task}"',
            *(
                f"The task has the environment of your account: set {key} there too, with setx."
                for key in _HANDED_ON
                if environ.get(key)
            ),
        ),
    )


def _user(environ: Mapping[str, str]) -> str:
    """The user in Windows' form. Without it, the task would be for everybody, which takes an administrator."""
    user = environ.get("USERNAME")
    return "\\".join(filter(None, (environ.get("USERDOMAIN"), user))) if user else psutil.Process().username()


def _task_text(name: str, command: Sequence[str], user: str) -> bytes:
    program, *rest = command
    task = ElementTree.Element("Task", version="1.2", xmlns=_TASK)

    def put(path: str, text: str) -> None:
        """Put the text at this path below the task; elements on the way are made once."""
        element = task
        for tag in path.split("/"):
            found = element.find(tag)
            element = ElementTree.SubElement(element, tag) if found is None else found
        element.text = text

    put("RegistrationInfo/Description", f"Potluck node {name}")
    put("Triggers/LogonTrigger/Enabled", "true")
    put("Triggers/LogonTrigger/UserId", user)
    put("Principals/Principal/UserId", user)
    put("Principals/Principal/LogonType", "InteractiveToken")
    put("Principals/Principal/RunLevel", "LeastPrivilege")
    put("Settings/MultipleInstancesPolicy", "IgnoreNew")
    put("Settings/DisallowStartIfOnBatteries", "false")  # the node itself knows what its owner wants on battery
    put("Settings/StopIfGoingOnBatteries", "false")
    put("Settings/StartWhenAvailable", "true")
    put("Settings/RunOnlyIfNetworkAvailable", "true")
    put("Settings/ExecutionTimeLimit", "PT0S")
    put("Settings/RestartOnFailure/Interval", "PT1M")
    put("Settings/RestartOnFailure/Count", "255")
    put("Actions/Exec/Command", program)
    put("Actions/Exec/Arguments", subprocess.list2cmdline(rest))
    for tag, key in (("Principals/Principal", "id"), ("Actions", "Context")):
        element = task.find(tag)
        assert element is not None
        element.set(key, "Author")
    ElementTree.indent(task)
    text: bytes = ElementTree.tostring(task, "utf-16", xml_declaration=True)  # Windows writes its own in this form
    return text
