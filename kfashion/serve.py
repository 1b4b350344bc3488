"""Recommendations over HTTP, from a trained run.

python -m kfashion.serve [run=latest:kfashion_stage2] [host=127.0.0.1] [port=8000] [catalog.path=FOLDER] [backend=exact]
"""

import ipaddress
import os
import re
import secrets
import socket
import sys
import threading
from pathlib import Path
from typing import Any

USAGE = """python -m kfashion.serve [WORD=VALUE …]

  run=latest:kfashion_stage2   a run directory, or latest:<experiment>
  host=127.0.0.1               0.0.0.0 for all of the network; put a proxy with TLS before it
  port=8000
  hosts=                       names, with commas, that clients may call it by; without, those of this machine alone
                               while it listens there alone, else any
  catalog.path=                folder of label files and images; without, garments of the run's own data
  backend=exact                ivf for more than about 100,000 products
  rate=500                     requests per second and client; 0 for any number
  paths.output_dir=outputs     where runs lie (OUTPUT_DIR)
  paths.data_dir=              where the run's data lie (DATA_DIR)

One core works on each picture and each search; OMP_NUM_THREADS gives them more, which pays for a first start with a
large catalog.path only.

Changes of the catalogue need the header X-API-Key: KFASHION_API_KEY, or the key printed at the start. The catalogue
lies below <run>/service/. Exit code: 0 stopped by a signal; 2 a mistake: one line says which."""
NUMBERS = {"port": int, "rate": float}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
STOPS_WITHIN_S = 3


def main(words: list[str] | None = None) -> int:
    """Serve until a signal; exit code 0. A user's mistake ends the program with one line and code 2."""
    words = sys.argv[1:] if words is None else words
    if any(word in ("-h", "--help") for word in words):
        print(USAGE)
        return 0
    from common.cli import fail  # heavy imports late, so that --help answers at once
    from common.errors import UserError

    try:
        options = _options(words)
        _serve(options)
    except UserError as error:
        fail(str(error))
    return 0


def _options(words: list[str]) -> dict[str, Any]:
    """The defaults, changed by the words. Raises UserError for an unknown one or a wrong value."""
    from common.config import ROOT
    from common.errors import UserError, nearest

    options: dict[str, Any] = {
        "run": "latest:kfashion_stage2", "host": "127.0.0.1", "port": 8000, "catalog.path": None, "backend": "exact",
        "rate": 500.0, "hosts": None, "paths.output_dir": os.environ.get("OUTPUT_DIR", str(ROOT / "outputs")),
        "paths.data_dir": os.environ.get("DATA_DIR"),
    }  # fmt: skip
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in options:
            raise UserError(f"{word}: unknown word.{nearest(key, options)} Known: {', '.join(options)}.")
        try:
            options[key] = NUMBERS.get(key, str)(value) if value else None
        except ValueError:
            raise UserError(f"{word}: need a number.") from None
    if not isinstance(options["port"], int) or not 0 < options["port"] < 65536:
        raise UserError(f"port={options['port']}: need 1 to 65535.")
    if options["rate"] is None or not 0 <= options["rate"] < float("inf"):
        raise UserError(f"rate={options['rate']}: need requests per second, 0 or more.")
    if options["backend"] not in ("exact", "ivf"):
        raise UserError(f"backend={options['backend']}: no such index; there are exact, ivf.")
    if options["hosts"] is not None and not options["hosts"].strip(" ,"):
        raise UserError(f"hosts={options['hosts']}: names nobody; leave the word out for the usual names.")
    if options["catalog.path"] is not None and not Path(options["catalog.path"]).is_dir():
        raise UserError(f"catalog.path={options['catalog.path']}: no such folder.")
    return options


def _serve(options: dict[str, Any]) -> None:
    """Answer at once; the models are loaded meanwhile. Raises UserError for what cannot be loaded or listened on."""
    import gc
    import logging
    import signal

    import uvicorn

    from common.errors import UserError
    from common.rundir import resolve_run

    run = resolve_run(options["run"] or "latest:kfashion_stage2", options["paths.output_dir"])
    given = os.environ.get("KFASHION_API_KEY", "")
    if not re.fullmatch("[!-~]*", given):
        raise UserError("KFASHION_API_KEY: need printable ASCII without spaces; no header can hold anything else.")
    host, port = options["host"] or "127.0.0.1", options["port"]
    listener = _listener(host, port)
    address = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    # torch reads it when it is loaded: teams of threads that wait for each other on few cores burn ten times the work
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    gc.disable()  # until all is loaded: nothing of it is garbage, and looking for some takes a fifth of a start
    from kfashion.service.app import Settings, create_app
    from kfashion.service.loading import load_recommender

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    key = given or secrets.token_urlsafe(24)
    app = create_app(Settings(key, rate=options["rate"], hosts=_hosts(options["hosts"], listener)))
    app.state.run = run
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False,
            proxy_headers=False,  # a header must not choose whose rate it is counted on
            timeout_graceful_shutdown=STOPS_WITHIN_S,
        )
    )  # fmt: skip
    catalog = None if options["catalog.path"] is None else Path(options["catalog.path"])
    failures: list[Exception] = []

    def load() -> None:
        try:
            app.state.recommender = load_recommender(run, catalog, options["paths.data_dir"], options["backend"])
            print(f"ready: {address}", flush=True)
        except Exception as error:
            failures.append(error)
            server.should_exit = True
        finally:
            gc.freeze()
            gc.enable()

    if not given:
        print(f"X-API-Key: {key}", flush=True)
    print(f"{run} at {address}, loading", flush=True)
    threading.Thread(target=load, daemon=True).start()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: None)  # the server, once it has stopped for one, raises it again
    server.run(sockets=[listener])
    if app.state.recommender is not None:
        app.state.recommender.close()
    if failures:
        raise failures[0]


def _listener(host: str, port: int) -> socket.socket:
    """A socket that clients can connect to at once. Raises UserError."""
    from common.errors import UserError

    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UserError(
            f"{host}:{port}: cannot listen there ({error.strerror or error}); take another port=."
        ) from None
    # headers and body are sent one by one: without this, the body waits 40 ms until the headers are acknowledged
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _hosts(names: str | None, listener: socket.socket) -> frozenset[str]:
    """The names that requests may be addressed to; none for any."""
    if names is not None:
        return frozenset(each.strip().lower() for each in names.split(",") if each.strip())
    address = listener.getsockname()[0]
    return frozenset([*LOOPBACK, address]) if ipaddress.ip_address(address).is_loopback else frozenset()


if __name__ == "__main__":
    raise SystemExit(main())
