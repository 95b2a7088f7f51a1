FROM python:3.12-slim

WORKDIR /app

# requirements-otel.lock also has the packages for traces.
ARG LOCK=requirements.lock
COPY ${LOCK} .
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore --require-hashes -r ${LOCK}

COPY pyproject.toml gunicorn.conf.py wsgi.py ./
COPY migrations migrations
COPY inventory inventory
RUN python -m compileall -q inventory migrations \
    && useradd --uid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin inventory \
    && install --directory --owner=inventory --group=inventory /data

USER 10001:10001
VOLUME /data
EXPOSE 8000

# Inside a container os.cpu_count() is that of the host, so the number of workers is set here.
# glibc keeps freed memory per thread. With a fixed mmap threshold, large blocks are returned to the system at once
# (worker after twelve 1 MiB requests: 117–134 MiB instead of 168–184).
ENV DATABASE_URL=sqlite:////data/inventory.db \
    INVENTORY_WORKERS=2 \
    MALLOC_MMAP_THRESHOLD_=131072 \
    PYTHONUNBUFFERED=1

HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health/live', timeout=3)"]

# PID 1 ignores signals without a handler: the trap stops a migration, which is then rolled back.
# exec makes gunicorn PID 1, so that it receives SIGTERM and completes running requests.
CMD ["sh", "-c", "trap 'kill $!; wait $!; exit 143' TERM INT; flask --app wsgi db upgrade & wait $! && exec gunicorn wsgi:app -b 0.0.0.0:8000"]
