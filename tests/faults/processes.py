"""The processes of one `gaugeway up`, by what they are."""

import psutil

from tests.gateway import Gateway


def actor(gateway: Gateway, name: str) -> int:
    """The id of the Ray actor ``ray::<name>`` below this `up`."""
    family = psutil.Process(gateway.process.pid).children(recursive=True)
    return next(int(p.pid) for p in family if _title(p).startswith(f"ray::{name}"))


def of_folder(gateway: Gateway) -> list[str]:
    """Command lines that name the gateway's data folder."""
    return naming(str(gateway.data))


def naming(text: str) -> list[str]:
    """Command lines that hold `text`."""
    return [title for title in map(_title, psutil.process_iter()) if text in title]


def of_session(session: int) -> list[str]:
    """Command lines of the processes in the session that `up` leads: all that Ray started for it."""
    titles = [_title(p) for p in psutil.process_iter() if _session(p) == session and p.pid != session]
    return [title for title in titles if title]  # the ended have none


def _session(process: psutil.Process) -> int:
    try:
        with open(f"/proc/{process.pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[3])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
