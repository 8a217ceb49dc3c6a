"""Serves one release of the application: ``python -m example_project.serve --release 1``."""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from typing import TYPE_CHECKING

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from .database import url_from_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flask import Flask


class RequestHandler(WSGIRequestHandler):
    """Sends an answer's two parts at once: Nagle's algorithm would hold the second one back for 40 ms."""

    disable_nagle_algorithm = True


def release_app(release: int, url: str) -> Flask:
    """Return the application of *release*; the other release is not imported."""
    if release == 1:
        from .release1.app import create_app
    else:
        from .release2.app import create_app
    return create_app(url)


def stop_at_end_of_input(server: BaseWSGIServer) -> None:
    """Shut down when the process that started this one closes the pipe, or is gone."""
    sys.stdin.read()
    server.shutdown()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve one release until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m example_project.serve", description=__doc__)
    parser.add_argument("--release", type=int, choices=(1, 2), required=True)
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose")
    parser.add_argument("--supervised", action="store_true", help="stop when standard input ends")
    options = parser.parse_args(arguments)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = release_app(options.release, url_from_environment())
    server = make_server("127.0.0.1", options.port, app, threaded=True, request_handler=RequestHandler)
    print(f"release {options.release} serves http://127.0.0.1:{server.server_port}", flush=True)
    if options.supervised:
        threading.Thread(target=stop_at_end_of_input, args=(server,), daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        app.extensions["engine"].dispose()


if __name__ == "__main__":
    main()
