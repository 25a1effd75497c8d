"""A front end on an empty server, with one model that the test itself serves."""

from tests.app.conftest import front

__all__ = ["front"]
