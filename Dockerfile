FROM python:3.12-slim

WORKDIR /app

COPY requirements.lock .
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore --require-hashes -r requirements.lock

COPY pyproject.toml gunicorn.conf.py wsgi.py ./
COPY migrations migrations
COPY inventory inventory
RUN python -m compileall -q inventory migrations \
    && useradd --uid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin inventory \
    && install --directory --owner=inventory --group=inventory /data

USER 10001:10001
VOLUME /data
EXPOSE 8000

# A container is told its share of the machine by whoever runs it; the number of processors it sees is the host's.
ENV DATABASE_URL=sqlite:////data/inventory.db \
    INVENTORY_WORKERS=2 \
    PYTHONUNBUFFERED=1

HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health/live', timeout=3)"]

# exec: gunicorn is process 1, hears SIGTERM and lets running requests end.
CMD ["sh", "-c", "flask --app wsgi db upgrade && exec gunicorn wsgi:app -b 0.0.0.0:8000"]
