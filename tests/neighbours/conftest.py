"""A front end on an empty server, with one model that the test itself serves; a web server."""

from tests.app.conftest import front
from tests.app.outbound.conftest import web

__all__ = ["front", "web"]
