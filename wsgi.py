"""What gunicorn and the flask command load."""

from inventory import create_app

app = create_app()
