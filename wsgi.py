"""WSGI entry point, loaded by gunicorn and the flask command."""

from inventory.server import startup

app = startup.load()
