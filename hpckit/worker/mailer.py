"""Handing a mail to whatever takes mail on this machine."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpckit.worker.bounded import Bounds, run_bounded

if TYPE_CHECKING:
    from email.message import EmailMessage

SEND_S = 30.0
# It is on the PATH of few people.
SENDMAIL_PLACES = ("/usr/sbin", "/usr/lib")
SMTP = ("localhost", 25)
MOST_KEPT = 2000


class NotSent(Exception):
    """No way took the mail, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mail:
    """What is sent, and to whom."""

    to: str
    subject: str
    body: str


def send(mail: Mail, within_s: float = SEND_S) -> None:
    """Send it by the first way that takes it; NotSent where none does."""
    until = time.monotonic() + within_s
    tried = []
    for name, way in WAYS.items():
        if time.monotonic() >= until:
            tried.append(f"{name} was not tried, {within_s:g} s were over")
            continue
        trouble = way(mail, until)
        if trouble is None:
            return
        tried.append(f"{name}: {trouble}")
    raise NotSent("; ".join(tried))


def _by_sendmail(mail: Mail, until: float) -> str | None:
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), *SENDMAIL_PLACES))
    path = shutil.which("sendmail", path=places)
    if path is None:
        return "not here"
    # -i: a line of one dot ends nothing.
    return _hand_to([path, "-t", "-i"], bytes(_message(mail)), until)


def _by_mail(mail: Mail, until: float) -> str | None:
    from email.header import Header

    path = shutil.which("mail")
    if path is None:
        return "not here"
    subject = Header(mail.subject, "us-ascii" if mail.subject.isascii() else "utf-8")
    # Some kinds of it take a line that begins with ~ for a command, whoever wrote the line.
    body = re.sub("^~", " ~", mail.body, flags=re.MULTILINE)
    command = [path, "-s", subject.encode(maxlinelen=0), mail.to]
    return _hand_to(command, body.encode(), until)


def _by_smtp(mail: Mail, until: float) -> str | None:
    import smtplib

    host, port = SMTP
    name = socket.gethostname()
    sender = f"{_user()}@{name}"
    message = _message(mail)
    message["From"] = f"hpckit <{sender}>"
    left_s = max(1.0, until - time.monotonic())
    try:
        # Without a name of ours smtplib would ask the DNS for one, for as long as that takes.
        with smtplib.SMTP(host, port, local_hostname=name, timeout=left_s) as server:
            server.send_message(message, from_addr=sender, to_addrs=[mail.to])
    except (OSError, smtplib.SMTPException) as error:
        return str(error) or type(error).__name__
    return None


WAYS: Mapping[str, Callable[[Mail, float], str | None]] = {
    "sendmail": _by_sendmail,
    "mail": _by_mail,
    "SMTP on localhost": _by_smtp,
}


def _message(mail: Mail) -> EmailMessage:
    """The mail as it travels: seven bits, and headers that nothing in a name can add to."""
    from email.message import EmailMessage
    from email.policy import default
    from email.utils import formatdate, make_msgid

    message = EmailMessage(policy=default.clone(cte_type="7bit"))
    message["To"] = mail.to
    message["Subject"] = mail.subject
    message["Date"] = formatdate(localtime=True)
    message["Message-ID"] = make_msgid(domain=socket.gethostname())
    # Nobody's holiday notice is an answer to this.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.body)
    return message


def _hand_to(command: Sequence[str], text: bytes, until: float) -> str | None:
    """Give a mail to a program; what was wrong with that."""
    said = bytearray()

    def keep(data: bytes) -> None:
        said.extend(data[: MOST_KEPT - len(said)])

    bounds = Bounds(is_late=lambda: time.monotonic() >= until, take=keep, may_leave=True)
    try:
        ended = run_bounded(command, given=text, bounds=bounds, env=os.environ)
    except OSError as error:
        return error.strerror or str(error)
    if ended.code == 0:
        return None
    if ended.code is None:
        return "it took too long"
    last = " ".join(said.decode(errors="replace").split())[-200:]
    return f"exit code {ended.code}" + (f", {last}" if last else "")


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "hpckit"
